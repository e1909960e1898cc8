"""Training with teachers, or a finished generator, gives the same losses on any mesh and with any number of
microbatches."""

import jax
import numpy as np
import pytest

from electra_jax.distributed.mesh import make_mesh
from electra_jax.distributed.sharding import axis_context, batch_sharding
from electra_jax.models.config import make_pretraining_config
from electra_jax.objectives.registry import make_objective
from electra_jax.training import program
from support.tiny import SPECIAL, rows
from support.tiny_ablations import VOCAB, full_config
from support.tiny_teachers import WIDE, settings, teacher
from support.training_steps import plain_descent

CHANGES = {
    "distillation": settings(
        teacher("mlm"), teacher("mlm", WIDE), hidden_weight=0.5, teacher_temperature=2.0
    ),
    "fast_electra": settings(teacher("mlm", WIDE), start_temperature=3.0, vocab_chunk_size=16),
}


@pytest.fixture(autouse=True)
def plain_optimizer(monkeypatch):
    """That teachers have no moments is seen in tests of whole runs (tests/runs)."""
    monkeypatch.setattr(program, "make_optimizers", plain_descent())


def windows(name, sizes, num_microbatches):
    """The metric sums after each of two steps, with random teachers, which must stay."""
    full = full_config(name, **CHANGES[name])
    full["model"] |= {"hidden_dropout": 0.1, "attention_dropout": 0.1}
    full["train"] |= {"num_microbatches": num_microbatches, "batch_size": 16}
    mesh = make_mesh(
        dict(zip(("data", "fsdp", "tensor"), sizes, strict=True)), jax.devices()[: np.prod(sizes)]
    )
    objective = make_objective(full, make_pretraining_config(full["model"]), SPECIAL)
    rng, found = np.random.default_rng(0), []
    with axis_context(mesh):
        functions = program.make_program(full, objective, mesh)
        abstract = functions.abstract_state.params["teachers"]
        draw = lambda leaf: np.float32(0.2 * rng.normal(size=leaf.shape))
        theirs = jax.tree.map(draw, abstract)
        put = jax.tree.map(lambda one, leaf: jax.device_put(one, leaf.sharding), theirs, abstract)
        state = functions.init()
        state = state.replace(params=state.params | {"teachers": put})
        for step in range(2):
            batch = jax.device_put(rows(16, seed=step, vocab_size=VOCAB), batch_sharding(mesh))
            state, window = functions.train_step(state, batch)
            found.append(jax.device_get(window))
        jax.tree.map(np.testing.assert_array_equal, state.params["teachers"], theirs)
    return found


@pytest.mark.parametrize(("name", "total"), [("distillation", "teacher_kl"), ("fast_electra", "rtd_bce")])
def test_losses_do_not_depend_on_mesh_and_microbatches(name, total):
    pairs = zip(windows(name, (8, 1, 1), 2), windows(name, (1, 1, 1), 1), strict=True)
    for ours, reference in pairs:
        assert ours.keys() == reference.keys() and reference[total] > 0.1
        for metric, value in reference.items():
            np.testing.assert_allclose(ours[metric], value, rtol=2e-5, atol=1e-5, err_msg=metric)
