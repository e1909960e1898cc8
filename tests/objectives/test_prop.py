"""PROP: the words that are drawn, the rows that begin with them, and the loss."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from electra_jax.models.config import make_pretraining_config
from electra_jax.models.inputs import derive_inputs
from electra_jax.models.word_set_model import WORD_SET_HEAD
from electra_jax.objectives.base import TOKENS
from electra_jax.objectives.mlm import make_prepare
from electra_jax.objectives.prop import PROP, rop_loss
from electra_jax.objectives.registry import forward_flops, shared_modules
from electra_jax.objectives.word_sets import begin_with, collect, draw_set, draw_sizes, longest_set
from support.tiny import LENGTH, SPECIAL, key, objective_section, rows
from support.tiny_ablations import O0, VOCAB, full_config, loss_of, make, prepared

CLS, SEP, MASK, PAD = SPECIAL.cls, SPECIAL.sep, SPECIAL.mask, SPECIAL.pad
TYPES = 2


def row(*ids, length=LENGTH):
    return [*ids, *[PAD] * (length - len(ids))]


# Documents of 10, 4 and 0 words; the first row has a second document, the third begins within a document.
TEXTS = np.array(
    [
        row(CLS, *[20] * 5, *[21] * 3, 22, 23, SEP, CLS, 30, 31, SEP),
        row(CLS, 40, 40, 40, 41, SEP),
        row(CLS, SEP),
    ],
    np.int32,
)


def smoothed(ids, document, mean_length, texts):
    """p(w | D) of each id, by counting."""
    words = [word for word in texts.ravel() if word not in SPECIAL]
    return np.array(
        [
            (document.count(word) + mean_length * words.count(word) / len(words))
            / (len(document) + mean_length)
            for word in ids
        ]
    )


DOCUMENT = [20] * 5 + [21] * 3 + [22, 23]
MEAN_LENGTH = (10 + 4 + 0) / 3


def test_sizes_are_poisson_without_zero():
    longest = longest_set(3.0, 128)
    assert stats.poisson.cdf(longest, 3.0) >= 0.99 > stats.poisson.cdf(longest - 1, 3.0)
    assert longest_set(3.0, 16) == 4 and longest_set(0.001, 16) == 1
    sizes = draw_sizes((jnp.arange(20_000) + 0.5) / 20_000, 3.0, longest)
    expected = stats.poisson.pmf(np.arange(1, longest + 1), 3.0)
    np.testing.assert_allclose(
        np.bincount(sizes, minlength=longest + 1)[1:] / 20_000, expected / expected.sum(), atol=1e-4
    )


@pytest.mark.parametrize("subsampling", [0.0, 0.05])
def test_words_are_drawn_from_the_smoothed_document(subsampling):
    """20,000 sets of four words of the first text, whose first word of each is looked at."""
    collection = collect(jnp.asarray(TEXTS), SPECIAL, TYPES, VOCAB)
    assert collection.length_B.tolist() == [10, 4, 0]
    np.testing.assert_allclose(collection.mean_length, MEAN_LENGTH, rtol=1e-6)
    many = 20_000
    alone = collection._replace(
        ids_BL=jnp.broadcast_to(collection.ids_BL[:1], (many, LENGTH)),
        is_word_BL=jnp.broadcast_to(collection.is_word_BL[:1], (many, LENGTH)),
        length_B=jnp.full(many, 10.0),
    )
    drawn = jax.jit(draw_set, static_argnums=(2, 3))(key(3), alone, 4, subsampling)
    first = np.asarray(drawn.words_BW[:, 0])[np.asarray(drawn.available_B) > 0]
    ids = np.arange(VOCAB)
    expected = smoothed(ids, DOCUMENT, MEAN_LENGTH, TEXTS)
    if subsampling:
        words = [word for word in TEXTS.ravel() if word not in SPECIAL]
        share = subsampling / np.maximum([words.count(one) / len(words) for one in ids], 1e-9)
        expected *= np.minimum(1.0, np.sqrt(share) + share)
    observed = np.bincount(first, minlength=VOCAB) / len(first)
    assert abs(observed - expected / expected.sum()).max() < 4 * np.sqrt(0.25 / many)


def test_probabilities_are_counted_in_the_first_document():
    collection = collect(jnp.asarray(TEXTS), SPECIAL, TYPES, VOCAB)
    drawn = draw_set(key(), collection, 6, 0.0)
    assert drawn.available_B.tolist() == [6, 6, 0]  # no words represent a row without words
    for index, document in enumerate((DOCUMENT, [40, 40, 40, 41])):
        expected = smoothed(np.asarray(drawn.words_BW[index]), document, MEAN_LENGTH, TEXTS)
        np.testing.assert_allclose(np.exp(drawn.log_probs_BW[index]), expected, rtol=1e-5)


def in_front(row_ids, words):
    """The row that begins with words, as a list of ids."""
    if not words:
        return row_ids
    text = row_ids[1:] if row_ids[0] == CLS else row_ids
    text = [one for one in text if one != PAD]
    whole = [CLS, *words, SEP, *text]
    if len(whole) > len(row_ids):
        return [*whole[: len(row_ids) - 1], SEP]
    return row(*whole)


def test_rows_begin_with_words():
    texts = np.array(
        [row(CLS, 40, 41, SEP), [CLS, *range(10, LENGTH + 8), SEP], list(range(9, LENGTH + 9)), row(CLS, SEP)]
    )
    sizes, words = [3, 2, 1, 0], np.array([[50, 51, 52], [53, 54, 0], [55, 0, 0], [0, 0, 0]])
    mask = make_prepare(objective_section("mlm", mask_prob=0.5), SPECIAL, TYPES)
    batch = mask(key(2), jnp.asarray(texts))
    out = begin_with(batch, jnp.asarray(words), jnp.asarray(sizes), SPECIAL, TYPES)
    for index, size in enumerate(sizes):
        expected = [
            in_front(list(tree[index]), list(words[index][:size])) for tree in (texts, batch.masked_ids_BL)
        ]
        np.testing.assert_array_equal(out.ids_BL[index], expected[0])
        np.testing.assert_array_equal(out.masked_ids_BL[index], expected[1])
    is_used = np.asarray(out.weights_BP) > 0
    found = np.take_along_axis(np.asarray(out.ids_BL), np.asarray(out.positions_BP), axis=1)
    np.testing.assert_array_equal(found[is_used], np.asarray(out.targets_BP)[is_used])
    before = np.asarray(batch.weights_BP) > 0
    assert 0 < is_used[1].sum() < before[1].sum()  # those at the end of the text are not predicted
    np.testing.assert_array_equal(is_used[[0, 3]], before[[0, 3]])
    assert jax.tree.all(jax.tree.map(np.array_equal, out.inputs, derive_inputs(out.ids_BL, SPECIAL, TYPES)))


def test_the_better_set_is_the_more_probable_one():
    _, _, batch = prepared("prop", rop_subsampling=0.0)
    assert (batch.num_words_B > 0).all() and batch.weights_B.sum() > 0
    texts = rows(4, LENGTH, vocab_size=VOCAB)
    collection = collect(jnp.asarray(texts), SPECIAL, TYPES, VOCAB)
    for index, size in enumerate(batch.num_words_B.tolist()):
        segment = derive_inputs(jnp.asarray(texts), SPECIAL, TYPES).segments_BL[index] == 1
        document = [word for word in texts[index][segment] if word not in SPECIAL]
        totals = []
        for rows_of in (batch.better, batch.worse):
            ids = rows_of.ids_BL[index]
            assert ids[0] == CLS and ids[size + 1] == SEP
            assert MASK not in rows_of.masked_ids_BL[index][: size + 2]
            words = np.asarray(ids[1 : size + 1])
            totals.append(np.log(smoothed(words, document, float(collection.mean_length), texts)).sum())
        assert totals[0] >= totals[1] - 1e-5
        assert batch.weights_B[index] == (abs(totals[0] - totals[1]) > 1e-5)


def test_the_loss_is_the_hinge_of_the_softmax():
    scores = np.random.default_rng(0).normal(size=(2, 6)).astype(np.float32)
    weights = np.array([1, 1, 0, 1, 0, 1], np.float32)
    shares = np.exp(scores) / np.exp(scores).sum(axis=0)
    expected = (weights * np.maximum(0.0, 1.0 - shares[0] + shares[1])).sum()
    loss, sums = rop_loss(*scores, weights)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    assert sums["rop_pairs"] == 4 and sums["rop_right"] == (weights * (scores[0] > scores[1])).sum()
    assert rop_loss(np.zeros(2), np.zeros(2), np.ones(2))[1]["rop_right"] == 1.0


def test_both_losses_add_up_and_reach_the_head():
    with_pairs, params, batch = prepared("prop", rop_subsampling=0.0)
    without = make("prop", rop_weight=0.0, rop_subsampling=0.0)
    differentiate = jax.value_and_grad(loss_of(with_pairs, batch), has_aux=True)
    (value, sums), gradients = jax.jit(differentiate, compiler_options=O0)(params)
    plain, _ = jax.jit(loss_of(without, batch), compiler_options=O0)(params)
    np.testing.assert_allclose(value, plain + sums["rop_loss"] / sums["rop_pairs"], rtol=1e-5)
    for layer in ("dense", "dense_prediction"):
        assert np.abs(gradients[WORD_SET_HEAD][layer]["kernel"]).max() > 0
    assert np.abs(gradients["generator"]["layer_0"]["attention"]["query"]["kernel"]).max() > 0
    assert sums[TOKENS] == batch.num_tokens_B.sum()
    ids, weights = with_pairs.targets(batch)
    assert ids.shape == weights.shape and weights.sum() == sums["mlm_weight"]


def test_its_mlm_has_a_weight():
    _, params, batch = prepared("prop", rop_subsampling=0.0)
    values = []
    for weight in (0.0, 1.0, 3.0):
        loss = loss_of(make("prop", gen_weight=weight, rop_subsampling=0.0), batch)
        value, sums = jax.jit(loss, compiler_options=O0)(params)
        values.append(value - sums["rop_loss"] / sums["rop_pairs"])
    mlm = sums["mlm_nll"] / sums["mlm_weight"]
    np.testing.assert_allclose(values, [0.0, mlm, 3.0 * mlm], rtol=1e-5, atol=1e-5)


def test_flops_are_those_of_two_rows():
    full = full_config("prop")
    of_prop = forward_flops(full, make_pretraining_config(full["model"]))
    of_mlm = forward_flops(full_config("mlm"), make_pretraining_config(full["model"]))
    assert of_prop == 2 * of_mlm + 2 * (2 * 16 * 16 + 2 * 16) / LENGTH


def test_a_run_of_mlm_has_all_modules_but_the_head():
    modules = dict.fromkeys(("embeddings", "generator", "generator_predictions", WORD_SET_HEAD))
    assert PROP.parameters_of == "mlm"
    assert set(modules) - set(shared_modules("mlm", modules)) == {WORD_SET_HEAD}
    assert shared_modules("prop", modules) == modules
