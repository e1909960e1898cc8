"""ELECTRA's ablations: the positions of each loss, and the parameters that it trains."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, log_softmax

from electra_jax.distributed.mesh import make_mesh
from electra_jax.distributed.sharding import axis_context
from electra_jax.models.ablations import DiscriminatorModel, TokenModel
from electra_jax.models.config import make_pretraining_config
from electra_jax.models.pretraining import PretrainingModel
from electra_jax.objectives.all_tokens_mlm import copying_nll
from electra_jax.objectives.corruption import RandomTokens, mask_tokens
from electra_jax.objectives.fixed_generators import draw_uniformly, draw_unigrams
from electra_jax.training.gradients import Accumulation
from electra_jax.training.metrics import summarize
from electra_jax.training.optimizer import make_optimizers
from electra_jax.training.program import make_program
from electra_jax.training.state import TrainState, unbox
from electra_jax.training.step import abstract_window, make_evaluation_step, make_train_step, training_batch
from support.jaxprs import sizes_of
from support.jitted import apply_jitted
from support.tiny import LENGTH, SPECIAL, key, rows
from support.tiny_ablations import VOCAB, bce, full_config, is_chosen, loss_of, make, prepared

ABLATIONS = [
    ("electra_15", "model"),
    ("replace_mlm", "model"),
    ("all_tokens_mlm", "model"),
    ("two_stage", "model"),
    ("adversarial", "model"),
    ("electric", "model"),
    ("electra", "unigram"),
    ("electra_15", "uniform"),
]
# Metrics of single objectives.
TOKENS = {"token_loss", "token_accuracy"}
MEASURED = {
    "replace_mlm": TOKENS,
    "all_tokens_mlm": TOKENS | {"rtd_auc"},
    "adversarial": {"reward", "baseline", "rtd_auc"},
}
MESH = make_mesh({"data": 1, "fsdp": 1, "tensor": 1}, jax.devices()[:1])


@pytest.mark.parametrize(("name", "generator"), ABLATIONS)
def test_gradients_are_finite_and_reach_exactly_what_is_trained(name, generator):
    objective, params, batch = prepared(name, generator)
    loss_and_gradients = jax.jit(jax.value_and_grad(loss_of(objective, batch), has_aux=True))
    (value, sums), grads = loss_and_gradients(params)
    trained = {module for phase in objective.phases for module in phase.trains}
    assert trained | set(objective.frozen) == set(params) and not trained & set(objective.frozen)
    for path, grad in jax.tree_util.tree_leaves_with_path(grads):
        assert np.isfinite(grad).all()
        assert np.any(grad) == (path[0].key in trained), path
    if name != "adversarial":  # the gradient of REINFORCE is not that of its value
        step = jax.tree.map(lambda x, grad: x - 1e-3 * grad, params, grads)
        assert loss_and_gradients(step)[0][0] < value
    numbers = summarize(jax.device_get(sums))
    measured = MEASURED.get(name, {"rtd_loss", "rtd_accuracy"}) | (
        {"mlm_loss"} if generator == "model" else set()
    )
    assert all(np.isfinite(numbers[name]) for name in measured) and ("mlm_loss" in numbers) == (
        generator == "model"
    )


@pytest.mark.parametrize(("name", "generator"), ABLATIONS)
def test_the_step_and_the_evaluation_can_be_traced(name, generator):
    full = full_config(name, generator)
    with axis_context(MESH):
        program = make_program(full, make(name, generator), MESH)
        ids = jax.ShapeDtypeStruct((8, LENGTH), jnp.int32)
        state, window = jax.eval_shape(program.train_step, program.abstract_state, ids)
    assert jax.tree.map(jnp.shape, state) == jax.tree.map(jnp.shape, program.abstract_state)
    assert set(window) == set(program.abstract_state.window)


def test_electra_15_counts_the_masked_positions_alone():
    objective, params, batch = prepared("electra_15", "uniform")
    value, sums = jax.jit(loss_of(objective, batch))(params)
    model = DiscriminatorModel(make_pretraining_config(full_config("electra_15")["model"]))
    batch, corrupted = jax.device_get(batch)
    logits = np.asarray(apply_jitted(model, params, corrupted, batch.inputs, False, method="discriminate"))
    chosen = is_chosen(batch)
    assert 0 < chosen.sum() < batch.inputs.is_token_BL.sum()
    expected = bce(logits, corrupted != batch.ids_BL)[chosen].mean()
    np.testing.assert_allclose(value, 5.0 * expected, rtol=1e-5)  # the debug recipe's disc_weight
    numbers = summarize(jax.device_get(sums))
    np.testing.assert_allclose(numbers["rtd_loss"], expected, rtol=1e-5)
    assert numbers["tokens"] == batch.inputs.is_token_BL.sum()


@pytest.fixture(scope="module")
def recorded():
    """The input of the discriminator of electra_15 with a generator, and its loss."""
    objective, params, batch = prepared("electra_15")
    seen = {}

    def discriminate(self, ids_BL, inputs, is_training):
        seen["ids"] = np.asarray(ids_BL)
        seen["logits"] = original(self, ids_BL, inputs, is_training)
        return seen["logits"]

    original = PretrainingModel.discriminate
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PretrainingModel, "discriminate", discriminate)
        value, sums = loss_of(objective, batch)(params)
    return value, jax.device_get(sums), jax.device_get(batch), seen["ids"], np.asarray(seen["logits"])


def test_electra_15_with_a_generator(recorded):
    value, sums, batch, corrupted, logits = recorded
    chosen = is_chosen(batch)
    np.testing.assert_array_equal(corrupted[~chosen], batch.ids_BL[~chosen])
    expected = bce(logits, corrupted != batch.ids_BL)[chosen].mean()
    np.testing.assert_allclose(value, sums["mlm_nll"] / sums["mlm_weight"] + 5.0 * expected, rtol=1e-5)


def token_outputs(name, monkeypatch):
    """(loss, sums, batch, the encoder's input, its logits over the vocabulary, its gate) of an encoder that
    predicts tokens."""
    objective, params, batch = prepared(name)
    seen, original = {}, TokenModel.predict_tokens

    def predict_tokens(self, ids_BL, inputs, positions_BP, is_training):
        logits, gate_BL = original(self, ids_BL, inputs, positions_BP, is_training)
        seen.update(
            ids=ids_BL, gate=gate_BL, logits=logits.x_BPE @ logits.table_VE.T + logits.bias_V[None, None]
        )
        return logits, gate_BL

    monkeypatch.setattr(TokenModel, "predict_tokens", predict_tokens)
    value, sums = loss_of(objective, batch)(params)
    seen = {name: None if x is None else np.asarray(x) for name, x in seen.items()}
    return (
        float(value),
        jax.device_get(sums),
        jax.device_get(batch),
        seen["ids"],
        seen["logits"],
        seen["gate"],
    )


def test_replace_mlm_predicts_the_masked_tokens_from_samples(monkeypatch):
    value, sums, batch, ids, logits, _ = token_outputs("replace_mlm", monkeypatch)
    chosen = is_chosen(batch)
    assert (
        not (ids == SPECIAL.mask).any()
        or (batch.masked_ids_BL == SPECIAL.mask).sum() > (ids == SPECIAL.mask).sum()
    )
    np.testing.assert_array_equal(ids[~chosen], batch.ids_BL[~chosen])
    assert (ids != batch.ids_BL).sum() > chosen.sum() / 2  # an untrained generator seldom draws the original
    nll = -np.take_along_axis(log_softmax(logits, axis=-1), batch.targets_BP[..., None], -1)[..., 0]
    expected = nll[batch.weights_BP > 0].mean()
    np.testing.assert_allclose(value, sums["mlm_nll"] / sums["mlm_weight"] + expected, rtol=1e-5)
    correct = (logits.argmax(-1) == batch.targets_BP)[batch.weights_BP > 0].mean()
    numbers = summarize(sums)
    np.testing.assert_allclose(
        [numbers["token_loss"], numbers["token_accuracy"]], [expected, correct], rtol=1e-5
    )


def test_all_tokens_mlm_is_a_mixture_of_copying_and_predicting(monkeypatch):
    value, sums, batch, ids, logits, gate = token_outputs("all_tokens_mlm", monkeypatch)
    probability = (
        np.exp(log_softmax(logits.astype(np.float64), axis=-1))
        * (1.0 - expit(gate.astype(np.float64)))[..., None]
    )
    rows_, columns = np.indices(ids.shape)
    probability[rows_, columns, ids] += expit(gate.astype(np.float64))
    np.testing.assert_allclose(probability.sum(-1), 1.0)
    is_token = batch.inputs.is_token_BL
    nll = -np.log(probability[rows_, columns, batch.ids_BL])
    assert (ids != batch.ids_BL).any()
    np.testing.assert_allclose(value, sums["mlm_nll"] / sums["mlm_weight"] + nll[is_token].mean(), rtol=1e-5)
    assert sums["token_weight"] == is_token.sum()
    correct = logits.argmax(-1) == batch.ids_BL
    np.testing.assert_allclose(sums["token_correct"], correct[is_chosen(batch)].sum())
    # The gate as a detector: the smaller, the likelier a token is replaced.
    np.testing.assert_allclose(sums["rtd_bce"], bce(-gate, ids != batch.ids_BL)[is_token].sum(), rtol=1e-5)


@settings(deadline=None, max_examples=50)
@given(nll=st.floats(0, 1e4), gate=st.floats(-1e4, 1e4))
def test_the_mixture_is_finite_and_has_finite_gradients(nll, gate):
    for is_original in (True, False):
        value, grads = jax.value_and_grad(
            lambda nll, gate, flag=is_original: copying_nll(nll, gate, jnp.asarray(flag)), argnums=(0, 1)
        )(jnp.float32(nll), jnp.float32(gate))
        assert np.isfinite(value) and np.isfinite(grads).all()
        assert value >= -1e-6 and (
            not is_original or value <= min(nll + np.logaddexp(0, gate), np.logaddexp(0, -gate)) * 1.001
        )


@pytest.mark.parametrize("name", ["all_tokens_mlm", "electric"])
def test_logits_of_all_positions_are_never_formed(name):
    vocab_size, chunk_size = 4096, 512
    objective = make(name, model={"vocab_size": vocab_size}, vocab_chunk_size=chunk_size)
    ids = jnp.asarray(rows(8))
    params = unbox(jax.eval_shape(functools.partial(objective.init, sequence_length=LENGTH), key()))
    batch = jax.eval_shape(objective.prepare, key(), ids)
    loss = lambda p, b: objective.phases[0].loss(p, b, objective.normalizers(b), None, None)[0]
    sizes = sizes_of(jax.make_jaxpr(jax.grad(loss))(params, batch).jaxpr)
    assert ids.size * chunk_size in sizes and ids.size * vocab_size not in sizes
    for wrong in (0, -1, vocab_size):
        with pytest.raises(
            ValueError, match=rf"config\.objective\.vocab_chunk_size: got {wrong}, expected 1 … 4095"
        ):
            make(name, model={"vocab_size": vocab_size}, vocab_chunk_size=wrong)


def test_a_frozen_generator_does_not_change():
    objective, params, _ = prepared("two_stage")
    section = full_config("two_stage")["optimizer"] | {
        "warmup_steps": 0,
        "learning_rate": 1e-2,
        "weight_decay": 0.1,
    }
    optimizers, _ = make_optimizers(section, 10, params, objective.phases, objective.frozen)
    step = make_train_step(
        objective,
        optimizers,
        batch_of=functools.partial(training_batch, objective, 0, 10),
        accumulation=Accumulation(1, 1, "float32"),
        window_steps=2,
        ema_decay=0.0,
    )
    window = jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), abstract_window(objective, params, 4, LENGTH)
    )
    state = TrainState(
        jnp.int32(0),
        params,
        {
            "discriminator": optimizers["discriminator"].init(
                {name: params[name] for name in objective.phases[0].trains}
            )
        },
        window,
    )
    step = jax.jit(step)  # or every operation would be compiled separately
    for seed in range(2):
        state, window = step(state, jnp.asarray(rows(4, seed=seed, vocab_size=VOCAB)))
    for name in params:
        same = jax.tree.map(
            lambda one, other: np.asarray(one).tobytes() == np.asarray(other).tobytes(),
            params[name],
            state.params[name],
        )
        assert jax.tree.all(same) if name in objective.frozen else not any(jax.tree.leaves(same)), name
    assert objective.frozen == ("generator_embeddings", "generator", "generator_predictions")
    assert "gradient_norm_discriminator" in window and "gradient_norm_generator" not in window
    assert summarize(jax.device_get(window)).keys() >= {"mlm_loss", "rtd_auc"}
    with pytest.raises(ValueError, match="exactly once"):
        make_optimizers(section, 10, params, objective.phases)


def test_unigrams_are_as_frequent_as_in_the_batch():
    ids = np.full((2, 10), SPECIAL.pad, np.int32)
    ids[0, :7] = [SPECIAL.cls, 7, 7, 7, 9, SPECIAL.unk, SPECIAL.sep]
    ids[1, :4] = [SPECIAL.cls, 9, 63, SPECIAL.mask]
    draws = 60_000
    tokens = draw_unigrams(jax.random.uniform(key(), (3, draws // 3)), jnp.asarray(ids), SPECIAL)
    counts = np.bincount(np.asarray(tokens).ravel(), minlength=64)
    assert counts[[7, 9, 63]].sum() == draws
    expected = draws * np.array([3, 2, 1]) / 6
    assert (
        (counts[[7, 9, 63]] - expected) ** 2 / expected
    ).sum() < 13.8  # chi-square, 2 degrees of freedom, p = 0.001
    ends = draw_unigrams(jnp.asarray([[0.0, 1.0 - 2**-24]]), jnp.asarray(ids), SPECIAL)
    np.testing.assert_array_equal(ends, [[7, 63]])


def test_uniform_tokens_cover_the_whole_vocabulary():
    draws = 64_000
    counts = np.bincount(
        np.asarray(draw_uniformly(jax.random.uniform(key(), (1, draws)), 64)).ravel(), minlength=64
    )
    assert (
        counts.size == 64 and ((counts - 1000) ** 2 / 1000).sum() < 103.4
    )  # chi-square, 63 degrees of freedom, p = 0.001


def test_random_tokens_as_in_bert():
    ids = np.full((2000, 128), 50, np.int32)
    batch = mask_tokens(
        key(),
        jnp.asarray(ids),
        SPECIAL,
        masking="uniform",
        mask_prob=0.15,
        mask_token_prob=0.8,
        type_vocab_size=2,
        random_tokens=RandomTokens(0.1, vocab_size=100),
    )
    batch = jax.device_get(batch)
    chosen = is_chosen(batch)
    assert chosen.sum() == batch.weights_BP.sum() == 19 * 2000  # all of them are predicted
    assert (batch.targets_BP == 50).all()
    written = batch.masked_ids_BL[chosen]
    np.testing.assert_array_equal(batch.masked_ids_BL[~chosen], 50)
    draws = written.size
    others = np.bincount(written, minlength=100)
    # One random token in a hundred is [MASK], and one in a hundred the original.
    for count, share in (
        (others[SPECIAL.mask], 0.801),
        (others[50], 0.101),
        (draws - others[[SPECIAL.mask, 50]].sum(), 0.098),
    ):
        assert abs(count / draws - share) < 5 * np.sqrt(share * (1 - share) / draws)
    rest = np.delete(others, [SPECIAL.mask, 50])
    assert (
        rest.size == 98 and ((rest - rest.mean()) ** 2 / rest.mean()).sum() < 145
    )  # 97 degrees of freedom, p = 0.001


def test_evaluation_without_a_generator():
    objective, params, _ = prepared("electra", "unigram")
    step = make_evaluation_step(objective, seed=0, vocab_size=VOCAB)
    numbers = summarize(
        jax.device_get(jax.eval_shape(step, params, jax.ShapeDtypeStruct((4, LENGTH), jnp.int32), 0))
        and jax.device_get(jax.jit(step)(params, jnp.asarray(rows(4, vocab_size=VOCAB)), 0)),
        np.full(VOCAB, -2.5),
    )
    assert 0 < numbers["replaced_rate"] < 0.3 and "mlm_loss" not in numbers
    assert numbers["unigram_cross_entropy"] == 2.5
