"""Heads that find answers agree with NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special as functions

from electra_jax.finetuning.models import TaskModel
from electra_jax.finetuning.span_decoding import IndependentOutputs
from electra_jax.finetuning.span_heads import JointTrainingOutputs, can_answer, span_loss
from electra_jax.models.config import make_pretraining_config
from support import tiny_export
from support.jitted import apply_jitted
from support.random_parameters import random_parameters
from support.tiny import SPECIAL, key
from support.tiny_run import VOCAB

# [CLS] two of the question [SEP] the context [SEP] padding
IDS = np.zeros((3, 14), np.int32)
IDS[:, 1:3], IDS[:, 4:12] = 7, np.random.default_rng(0).integers(5, VOCAB, size=(3, 8))
IDS[:, 0], IDS[:, 3], IDS[:, 12] = SPECIAL.cls, SPECIAL.sep, SPECIAL.sep
CAN = np.array([True, False, False, False] + [True] * 8 + [False] * 2)


def test_answers_lie_in_the_context_or_at_cls():
    np.testing.assert_array_equal(can_answer(jnp.asarray(IDS), SPECIAL), np.tile(CAN, (3, 1)))


@pytest.fixture(scope="module")
def joint():
    """(model, parameters unlike their initial values, states [B, L, D])."""
    config = make_pretraining_config(tiny_export.electra_model()).discriminator
    model = TaskModel(config, SPECIAL, "question_answering", 2, "published", 0.1)
    ids = jnp.asarray(IDS)
    params = random_parameters(lambda: model.init(key(), ids, False)["params"], spread=0.3)
    states = jax.jit(lambda params: model.apply({"params": params}, ids, False, method="states"))(params)
    return model, params, np.asarray(states, np.float64)


def gelu(x):
    return x * functions.ndtr(x)


def expected_ends(head, states_LD, start):
    """Log probabilities of the ends given a start: dense(gelu(dense(state of the start, state)))."""
    both = np.concatenate([np.broadcast_to(states_LD[start], states_LD.shape), states_LD], axis=-1)
    inner = gelu(both @ head["end_inner_kernel"] + head["end_inner_bias"])
    logits = (inner @ head["end"]["kernel"] + head["end"]["bias"])[:, 0]
    return functions.log_softmax(np.where(CAN, logits, -1e9))


def test_electras_head_finds_the_likeliest_starts_and_their_likeliest_ends(joint):
    model, params, states = joint
    head = jax.tree.map(lambda x: np.asarray(x, np.float64), params["head"])
    outputs = jax.jit(lambda params: model.apply({"params": params}, jnp.asarray(IDS), False))(params)
    for row in range(3):
        start_logits = np.where(
            CAN, (states[row] @ head["start"]["kernel"] + head["start"]["bias"])[:, 0], -1e9
        )
        log_probs = functions.log_softmax(start_logits)
        order = np.argsort(-log_probs, kind="stable")[: CAN.sum()]
        np.testing.assert_array_equal(outputs.start_indices[row][: CAN.sum()], order)
        np.testing.assert_allclose(outputs.start_log_probs[row][: CAN.sum()], log_probs[order], atol=1e-4)
        for place, start in enumerate(order):
            ends = expected_ends(head, states[row], start)
            best = np.argsort(-ends, kind="stable")[: CAN.sum()]
            np.testing.assert_array_equal(outputs.end_indices[row, place][: CAN.sum()], best)
            np.testing.assert_allclose(outputs.end_log_probs[row, place][: CAN.sum()], ends[best], atol=1e-4)
        mean_start = np.exp(log_probs) @ states[row]
        inner = gelu(
            np.concatenate([states[row, 0], mean_start]) @ head["answerable_inner"]["kernel"]
            + head["answerable_inner"]["bias"]
        )
        answerable = inner @ head["answerable"]["kernel"] + head["answerable"]["bias"]
        np.testing.assert_allclose(outputs.answerable_logit[row], answerable[0], atol=1e-4)


def test_training_scores_ends_given_the_true_start(joint):
    model, params, states = joint
    head = jax.tree.map(lambda x: np.asarray(x, np.float64), params["head"])
    labels = jnp.asarray([[5, 6, 0], [11, 11, 0], [0, 0, 1]], jnp.int32)
    outputs = apply_jitted(model, params, jnp.asarray(IDS), True, labels, rngs={"dropout": key()})
    for row in range(3):  # the tiny model has no dropout
        ends = expected_ends(head, states[row], int(labels[row, 0]))
        np.testing.assert_allclose(jax.nn.log_softmax(outputs.end_logits[row])[CAN], ends[CAN], atol=1e-4)


def test_losses_by_hand():
    source = np.random.default_rng(1)
    start, end = source.normal(size=(2, 2, 14))
    labels, can = np.array([[5, 7, 0], [0, 0, 1]]), np.tile(CAN, (2, 1))
    nll = lambda logits, row, at: -functions.log_softmax(np.where(CAN, logits[row], -1e9))[at]
    each = [(nll(start, row, labels[row, 0]) + nll(end, row, labels[row, 1])) / 2 for row in range(2)]
    arguments = (jnp.asarray(labels), jnp.asarray([True, True]), jnp.asarray(can))
    independent = IndependentOutputs(jnp.asarray(start), jnp.asarray(end))
    np.testing.assert_allclose(span_loss(independent, *arguments), np.mean(each), rtol=1e-5)
    logits = np.array([2.0, -1.0])  # of no answer: the first is wrong, the second too
    joint = JointTrainingOutputs(*independent, jnp.asarray(logits))
    expected = np.mean(each) + 0.5 * np.mean([np.log(1 + np.exp(2)), np.log(1 + np.exp(1))])
    np.testing.assert_allclose(span_loss(joint, *arguments), expected, rtol=1e-5)
    first = (arguments[0], jnp.asarray([True, False]), arguments[2])
    np.testing.assert_allclose(span_loss(independent, *first), each[0], rtol=1e-5)
