"""Steps of two phases: the generator is updated first, and the discriminator then reads its new
embeddings."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from electra_jax.distributed.mesh import make_mesh
from electra_jax.models.config import make_pretraining_config
from electra_jax.objectives.base import Phase
from electra_jax.objectives.deberta_v3 import make_deberta_v3_objective
from electra_jax.training import program
from electra_jax.training.metrics import summarize
from electra_jax.training.optimizer import effective_groups, make_optimizers
from electra_jax.training.state import abstract_params
from electra_jax.training.step import step_keys
from support.tiny import LENGTH, SPECIAL, deberta, rows, shallow_deberta_section
from support.training_steps import config, plain_descent, run_steps


def full_config(sharing="gdes", **changes):
    """A whole configuration for the tiny DeBERTaV3; the rate is high at once, so that one step moves the
    embeddings."""
    model = shallow_deberta_section(embedding_sharing=sharing)
    optimizer = {"warmup_steps": 0, "learning_rate": 1e-2, "bias_correction": True}
    return config(model=model, optimizer=optimizer, **changes)


def train(full, steps, sizes=(1, 1, 1)):
    mesh = make_mesh(
        dict(zip(("data", "fsdp", "tensor"), sizes, strict=True)), jax.devices()[: np.prod(sizes)]
    )
    return run_steps(full, mesh, steps, make=deberta)


def norm(tree):
    return float(optax.tree.norm(tree))


@pytest.mark.slow
@pytest.mark.parametrize("sharing", ["gdes", "none"])
def test_the_discriminator_reads_the_generator_after_its_update(sharing):
    full = full_config(sharing)
    functions, state, (window,) = train(full, 1)
    objective = make_deberta_v3_objective(make_pretraining_config(full["model"]), full["objective"], SPECIAL)
    assert [phase.name for phase in objective.phases] == ["generator", "discriminator"]
    params = jax.tree.map(jnp.asarray, functions.init().params)
    corruption_key, dropout_key = step_keys(full["train"]["seed"], jnp.int32(0))
    # Jitted as wholes, or every operation would be compiled separately.
    batch = jax.jit(objective.prepare)(corruption_key, jnp.asarray(rows(8, seed=0)))
    arguments = batch, objective.normalizers(batch), jax.random.fold_in(dropout_key, 0)
    generator, discriminator = objective.phases
    own = {name: params[name] for name in generator.trains}
    generator_loss = lambda p: generator.loss(params | p, *arguments, None)
    grads, (_, corrupted) = jax.jit(jax.grad(generator_loss, has_aux=True))(own)
    rtd_gradient = jax.jit(jax.grad(lambda p: discriminator.loss(p, *arguments, corrupted)[0]))
    new = params | {name: state.params[name] for name in generator.trains}
    norms = {name: norm(rtd_gradient(p)["discriminator"]) for name, p in (("old", params), ("new", new))}
    seen = float(window["gradient_norm_discriminator"])
    assert abs(seen - norms["new"]) < 1e-4 * seen
    if sharing == "gdes":
        assert abs(seen - norms["old"]) > 1e-2 * seen
    # The phases have separate states: the update of the generator equals one made without any discriminator.
    optimizers, _ = make_optimizers(full["optimizer"], full["train"]["num_steps"], params, objective.phases)
    updates, _ = optimizers["generator"].update(grads, optimizers["generator"].init(own), own)
    for ours, expected in zip(
        jax.tree.leaves({name: state.params[name] for name in generator.trains}),
        jax.tree.leaves(optax.apply_updates(own, updates)),
        strict=True,
    ):
        np.testing.assert_allclose(ours, expected, atol=2e-5)


def test_tied_embeddings_are_trained_in_one_phase(monkeypatch):
    monkeypatch.setattr(program, "make_optimizers", plain_descent())
    functions, state, _ = train(full_config("tied"), 1)
    assert list(state.opt_state) == ["joint"]
    assert norm(jax.tree.map(jnp.subtract, state.params, functions.init().params)) > 0


def test_microbatches_give_the_update_of_the_large_batch():
    states = [train(full_config(train={"num_microbatches": n}), 2)[1] for n in (1, 4)]
    for one, four in zip(*(jax.tree.leaves(state.params) for state in states), strict=True):
        np.testing.assert_allclose(one, four, atol=2e-5)


def test_losses_are_the_same_on_a_mesh():
    expected = train(full_config(), 2)[2]
    for ours, reference in zip(train(full_config(), 2, (2, 2, 2))[2], expected, strict=True):
        for name in ("mlm_loss", "rtd_loss"):
            assert abs(summarize(ours)[name] - summarize(reference)[name]) < 1e-5


def test_the_discriminator_can_have_a_learning_rate_of_its_own():
    full = full_config()
    params, _ = abstract_params(deberta(full["model"]), LENGTH)
    optimizer = full["optimizer"] | {"learning_rate": 1e-3, "discriminator_learning_rate": 5e-4}
    groups = effective_groups(params, optimizer)
    assert groups["discriminator"]["layer_0"]["output"]["kernel"].learning_rate == 0.5
    assert groups["discriminator_embeddings"]["word_embeddings"]["delta"].learning_rate == 0.5
    assert groups["discriminator_embeddings"]["word_embeddings"]["delta"].weight_decay == 1.0
    assert groups["generator"]["layer_0"]["output"]["kernel"].learning_rate == 1.0


def test_phases_must_train_everything_once():
    with pytest.raises(ValueError, match="exactly once"):
        make_optimizers(config()["optimizer"], 10, {"a": 0, "b": 0}, (Phase("one", ("a",), None),))
    with pytest.raises(ValueError, match=r"config\.optimizer\.schedule"):
        make_optimizers(
            config()["optimizer"] | {"schedule": "cosine"}, 10, {"a": 0}, (Phase("one", ("a",), None),)
        )
    with pytest.raises(ValueError, match=r"config\.objective\.masking"):
        deberta(masking="spans")
