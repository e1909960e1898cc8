"""Electric: the noise model sees both sides of a token but not the token; the discriminator learns an
energy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, log_softmax

from electra_jax.models.ablations import TwoTowerModel
from electra_jax.models.config import make_pretraining_config
from electra_jax.models.inputs import derive_inputs
from electra_jax.objectives.electric import noise_logits
from electra_jax.objectives.registry import forward_flops
from electra_jax.planning.compiled import matmul_flops
from electra_jax.training.metrics import summarize
from support.tiny import LENGTH, SPECIAL, key
from support.tiny_ablations import O0, VOCAB, full_config, is_chosen, loss_of, prepared, random_params

L = 12
MODEL = TwoTowerModel(make_pretraining_config(full_config("electric")["model"]))


@settings(deadline=None, max_examples=50)
@given(p=st.floats(1e-6, 1.0), q=st.floats(1e-6, 1.0), m=st.floats(0.01, 0.9))
def test_with_the_true_energy_the_logit_is_the_log_odds_of_noise(p, q, m):
    """If a share m of the tokens comes from q and the rest from p, Bayes' rule gives the share of noise."""
    noise, text = m * q, (1 - m) * p
    logit = float(noise_logits(jnp.float32(-np.log(p)), jnp.float32(np.log(q)), m))
    np.testing.assert_allclose(logit, np.log(noise / text), atol=1e-4)
    np.testing.assert_allclose(expit(logit), noise / (noise + text), atol=1e-4)


def test_the_noise_model_gets_no_gradient_from_the_discriminator():
    gradient = jax.grad(lambda log_q: noise_logits(jnp.float32(1.0), log_q, 0.15))(jnp.float32(-2.0))
    assert gradient == 0.0


@pytest.fixture(scope="module")
def towers():
    """ids [N, L] of one structure → (states of the left tower, of the right tower, logits at every
    position)."""
    objective, _, _ = prepared("electric")
    params = random_params(objective)

    def compute(ids):
        inputs = derive_inputs(ids, SPECIAL, 2)

        def states(model):
            x = model.embeddings(ids, inputs, False)
            return tuple(
                tower(x, inputs._replace(direction=jnp.int32(direction)), False)
                for tower, direction in ((model.generator_left, 1), (model.generator_right, -1))
            )

        logits = MODEL.apply({"params": params}, ids, inputs, False, method="generate")
        return *MODEL.apply(
            {"params": params}, method=states
        ), logits.x_BPE @ logits.table_VE.T + logits.bias_V[None, None]

    return jax.jit(compute, compiler_options=O0)


# A document cut at the start of the row, a whole one, padding; and one document cut at both ends.
STRUCTURES = [[0, 0, 0, SPECIAL.sep, SPECIAL.cls, 0, 0, 0, 0, SPECIAL.sep, None, None], [0] * L]


@settings(deadline=None, max_examples=12)
@given(
    structure=st.sampled_from(STRUCTURES), words=st.lists(st.integers(5, VOCAB - 2), min_size=L, max_size=L)
)
def test_a_prediction_never_depends_on_its_token_and_depends_on_its_neighbours(towers, structure, words):
    ids = np.array(
        [SPECIAL.pad if mark is None else mark or word for mark, word in zip(structure, words, strict=True)]
    )
    free = [place for place, mark in enumerate(structure) if mark == 0]
    variants = np.tile(ids, (L + 1, 1))  # the last is the row itself
    for place in free:
        variants[place, place] += 1
    left, right, logits = (np.asarray(x) for x in towers(jnp.asarray(variants, jnp.int32)))
    document = np.cumsum([mark == SPECIAL.cls for mark in structure])
    for changed in free:
        for place in range(L):
            is_inside = structure[place] is not None and document[place] == document[changed]
            moves = [
                np.abs(states[changed, place] - states[-1, place]).max() > 1e-6
                for states in (left, right, logits)
            ]
            # The left tower's state has seen its position and those before; the right tower's, its position
            # and those after.
            assert moves == [
                is_inside and changed <= place,
                is_inside and changed >= place,
                is_inside and changed != place,
            ]


def test_the_loss_against_numpy():
    objective, params, batch = prepared("electric")
    value, sums = loss_of(objective, batch)(params)
    apply = lambda method, ids: MODEL.apply({"params": params}, ids, batch.inputs, False, method=method)
    logits = apply("generate", batch.ids_BL)
    log_q = log_softmax(
        np.asarray(logits.x_BPE @ logits.table_VE.T + logits.bias_V[None, None], np.float64), axis=-1
    )
    batch = jax.device_get(batch)
    is_noise, corrupted = is_chosen(batch), noise_of(objective, params, batch)
    assert (corrupted != batch.ids_BL)[is_noise].mean() > 0.5 and (corrupted == batch.ids_BL)[~is_noise].all()
    energy = np.asarray(apply("discriminate", jnp.asarray(corrupted)), np.float64)
    rows, columns = np.indices(corrupted.shape)
    logit = energy + log_q[rows, columns, corrupted] + np.log(0.15 / 0.85)
    is_token = batch.inputs.is_token_BL
    nce = (np.logaddexp(0, logit) - logit * is_noise)[
        is_token
    ].mean()  # noise even where the original was drawn
    is_word = is_token & ~np.isin(batch.ids_BL, [SPECIAL.cls, SPECIAL.sep, SPECIAL.mask])
    nll = -log_q[rows, columns, batch.ids_BL][is_word].mean()
    np.testing.assert_allclose(value, nll + 5.0 * nce, rtol=1e-5)
    numbers = summarize(jax.device_get(sums))
    np.testing.assert_allclose([numbers["mlm_loss"], numbers["rtd_loss"]], [nll, nce], rtol=1e-5)
    np.testing.assert_allclose(numbers["replaced_rate"], is_noise[is_token].mean(), rtol=1e-6)


def test_model_flops_are_the_products_of_the_program():
    """A third of the loss and its gradient, but that chunks of logits are computed again for the gradient."""
    objective, params, batch = prepared("electric")
    full = full_config("electric")
    full["objective"]["mask_prob"] = batch.positions_BP.shape[1] / LENGTH  # a whole number of a row's slots
    expected = 3 * forward_flops(full, MODEL.config) + 2 * 16 * VOCAB
    gradient = jax.make_jaxpr(jax.value_and_grad(loss_of(objective, batch), has_aux=True))(params)
    assert matmul_flops(gradient.jaxpr) == pytest.approx(4 * LENGTH * expected, rel=1e-12)


def noise_of(objective, params, batch):
    """The input of the discriminator."""
    seen, original = [], TwoTowerModel.discriminate

    def discriminate(self, ids_BL, inputs, is_training):
        seen.append(np.asarray(ids_BL))
        return original(self, ids_BL, inputs, is_training)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TwoTowerModel, "discriminate", discriminate)
        loss_of(objective, jax.tree.map(jnp.asarray, batch))(params)
    return seen[0]


def test_noise_equal_to_the_original_counts_as_noise():
    """With a noise model that always draws the original, every chosen token still counts as noise."""
    objective, params, batch = prepared("electric")
    certain = jnp.where(jnp.arange(VOCAB) == 7, 1e3, 0.0)
    params = params | {"generator_predictions": params["generator_predictions"] | {"bias": certain}}
    ids = jnp.where(batch.ids_BL >= 5, 7, batch.ids_BL)
    batch = objective.prepare(key(1), ids)
    numbers = summarize(jax.device_get(loss_of(objective, batch)(params)[1]))
    np.testing.assert_array_equal(noise_of(objective, params, batch), ids)
    np.testing.assert_allclose(
        numbers["replaced_rate"], batch.weights_BP.sum() / batch.inputs.is_token_BL.sum(), rtol=1e-6
    )
    assert numbers["mlm_accuracy"] == 1.0
