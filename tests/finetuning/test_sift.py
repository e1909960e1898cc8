"""Scale-invariant fine-tuning: the published algorithm written out in PyTorch, its perturbation, and every
task type by hand."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from electra_jax.finetuning.batches import TaskBatch
from electra_jax.finetuning.models import TaskModel
from electra_jax.finetuning.sift import ascend, initial_perturbation, sift_penalty
from electra_jax.finetuning.span_decoding import IndependentOutputs
from electra_jax.huggingface.names import DEBERTA_V2, ELECTRA, to_file
from electra_jax.models.embeddings import Embeddings
from electra_jax.models.inputs import derive_inputs
from electra_jax.models.layers import LayerNorm
from electra_jax.training.state import unbox
from support.tiny import SPECIAL, key
from support.tiny_sift import PUBLISHED, TASK_TYPES, make_ids, toy_batch
from support.tiny_task import (
    HEADS,
    encoder_config,
    random_params,
    torch_model,
)


class Spy:
    """A model that records the arguments of its calls."""

    def __init__(self, model, answer=None):
        self.task_type, self.special, self.config = model.task_type, model.special, model.config
        self._answer, self.perturbations, self.keys = answer or model.apply, [], []

    def apply(self, variables, ids, is_training, labels, perturbation, packed, rngs):
        assert is_training
        self.perturbations.append(perturbation)
        self.keys.append(rngs["dropout"])
        return self._answer(variables, ids, is_training, labels, perturbation, packed, rngs=rngs)


def torch_penalty(model, layer_norm, ids, noise, sift):
    """(penalty, perturbation) by the published algorithm: a hook before the LayerNorm, and two more
    passes."""
    types_ = (
        {}
        if not hasattr(model, "electra")
        else {
            "token_type_ids": torch.from_numpy(
                np.array(derive_inputs(jnp.asarray(ids), SPECIAL, 2).token_types_BL, np.int64)
            )
        }
    )
    logits = lambda: (
        model(
            torch.from_numpy(ids.astype(np.int64)),
            **types_,
            attention_mask=torch.from_numpy((ids != 0).astype(np.int64)),
        ).logits
    )
    target = logits()
    perturbation = torch.from_numpy(noise).requires_grad_()

    def hook(module, inputs):
        return (
            torch.nn.functional.layer_norm(inputs[0], inputs[0].shape[-1:], eps=1e-7).detach() + perturbation
        )

    handle = layer_norm.register_forward_pre_hook(hook)
    cross_entropy = lambda p, q: -(p.softmax(-1).detach() * q.log_softmax(-1)).sum(-1)
    (gradient,) = torch.autograd.grad(cross_entropy(target, logits()).sum(), perturbation)
    largest = gradient.abs().max(-1, keepdim=True)[0]
    perturbation = (perturbation + sift.learning_rate * gradient / (1e-6 + largest)).detach()
    perturbed = logits()
    handle.remove()
    return (cross_entropy(target, perturbed) + cross_entropy(perturbed, target)).mean(), perturbation


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "name"),
    [("deberta", "DebertaV2ForSequenceClassification"), ("electra", "ElectraForSequenceClassification")],
)
def test_the_penalty_and_its_gradients_match_the_published_algorithm(family, name):
    config, ids, sift = (
        encoder_config(family),
        make_ids(),
        PUBLISHED._replace(init_perturbation=0.1, learning_rate=0.05),
    )
    model = TaskModel(config, SPECIAL, "classification", 4, "transformers", 0.0)
    params = random_params(model, jnp.asarray(ids))
    batch = TaskBatch(jnp.asarray(ids), jnp.zeros(3, jnp.int32), jnp.ones(3, bool), None)

    def penalty(params):
        spy, outputs = (
            Spy(model),
            model.apply({"params": params}, batch.ids_BL, True, rngs={"dropout": key(1)}),
        )
        return sift_penalty(spy, params, batch, outputs, sift, key(2)), spy.perturbations[1]

    (value, perturbation_BLE), grads = jax.jit(jax.value_and_grad(penalty, has_aux=True))(params)
    theirs = torch_model(name, config, params, 4)
    noise = np.array(
        initial_perturbation(jax.random.split(key(2), 3)[0], (*ids.shape, config.embedding_size), 0.1)
    )
    layer_norm = (theirs.deberta if family == "deberta" else theirs.electra).embeddings.LayerNorm
    expected, perturbation = torch_penalty(theirs, layer_norm, ids, noise, sift)
    expected.backward()
    np.testing.assert_allclose(value, expected.item(), rtol=1e-5)
    np.testing.assert_allclose(
        np.asarray(perturbation_BLE)[ids != 0], perturbation.numpy()[ids != 0], atol=1e-5
    )

    family = DEBERTA_V2 if family == "deberta" else ELECTRA
    found = to_file(family, "discriminator", {part: grads[part] for part in ("embeddings", "encoder")})
    for ours, name_there in HEADS[name]:
        found[f"{name_there}.weight"] = np.asarray(grads["head"][ours]["kernel"]).T
        found[f"{name_there}.bias"] = np.asarray(grads["head"][ours]["bias"])
    wanted = {path: leaf.grad for path, leaf in theirs.named_parameters() if leaf.grad is not None}
    assert set(wanted) <= set(found) and len(wanted) > 20
    for path, gradient in wanted.items():
        gradient = gradient.numpy().copy()
        if path.endswith("embeddings.word_embeddings.weight"):
            gradient[0] = found[path][0]  # theirs has no gradient for padding
        np.testing.assert_allclose(
            found[path], gradient, atol=2e-5 * max(1.0, np.abs(gradient).max()), err_msg=path
        )


def test_the_perturbation_stays_small_and_has_no_gradient():
    noise = np.asarray(initial_perturbation(key(), (50, 20, 16), 0.01))
    assert (
        np.abs(noise).max() == np.float32(0.02) and 0.03 < np.mean(np.abs(noise) == np.float32(0.02)) < 0.06
    )
    assert abs(noise.mean()) < 1e-3 and 0.0085 < noise.std() < 0.01
    slope = np.random.default_rng(0).normal(size=noise.shape).astype(np.float32)
    slope[0, 0] = 0.0  # no direction to move in

    def stepped(scale, learning_rate):
        return ascend(
            lambda perturbation: (slope * (perturbation + scale * perturbation**2)).sum(),
            jnp.asarray(noise),
            learning_rate,
        )

    found, gradient = np.asarray(stepped(1.0, 1e-4)), slope * (1 + 2 * noise)
    expected = noise + 1e-4 * gradient / (np.abs(gradient).max(-1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(found, expected, atol=1e-8)
    moved = np.abs(found - noise).max(-1)
    assert moved[0, 0] == 0
    np.testing.assert_allclose(moved[1:], 1e-4, rtol=1e-3)
    assert np.abs(found).max() <= 0.02 + 1.001e-4
    assert jax.grad(lambda scale: stepped(scale, 1.0).sum())(1.0) == 0.0


@pytest.mark.parametrize("family", ["electra", "deberta"])
def test_embeddings_without_a_perturbation_are_unchanged(family):
    config, ids = encoder_config(family), jnp.asarray(make_ids())
    inputs, embeddings = derive_inputs(ids, SPECIAL, config.type_vocab_size), Embeddings(config)
    params = unbox(embeddings.init(key(), ids, inputs, False)["params"])
    total = params["word_embeddings"]["embedding"][ids]
    if family == "electra":
        total += params["position_embeddings"]["embedding"][inputs.positions_BL]
        total += params["token_type_embeddings"]["embedding"][inputs.token_types_BL]
    layer_norm = LayerNorm(config.layer_norm_epsilon, "embedding", "float32")
    expected = layer_norm.apply({"params": params["LayerNorm"]}, total)
    if family == "deberta":
        expected *= inputs.is_token_BL[:, :, None]
    ordinary = embeddings.apply({"params": params}, ids, inputs, False)
    np.testing.assert_array_equal(ordinary, expected)
    zeros = embeddings.apply({"params": params}, ids, inputs, False, perturbation_BLE=jnp.zeros_like(total))
    difference = np.abs(np.asarray(zeros - ordinary))
    share = config.layer_norm_epsilon / (
        2 * np.asarray(total.var(axis=-1, keepdims=True))
    )  # see the docstring of sift.py
    assert (difference - 1.1 * share * np.abs(np.asarray(ordinary))).max() < 1e-6
    assert (difference.max() > 1e-5) == (
        family == "deberta"
    )  # of the published start, with a variance of 4e-4


@pytest.mark.parametrize("family", ["electra", "deberta"])
def test_a_perturbation_of_zero_hardly_changes_the_outputs(family):
    model, ids = (
        TaskModel(encoder_config(family), SPECIAL, "classification", 2, "published", 0.0),
        jnp.asarray(make_ids()),
    )
    params = random_params(model, ids)  # variance about 0.01, as of trained tables
    states = jax.jit(
        lambda perturbation: model.apply({"params": params}, ids, False, perturbation, method="states")
    )
    ordinary, perturbed = states(None), states(jnp.zeros((*ids.shape, model.config.embedding_size)))
    np.testing.assert_allclose(perturbed, ordinary, atol=1e-5)


def cross_entropy(target, scores):
    """−Σ p(target) · log p(scores) over the last axis, in float64."""
    softmax = lambda x: (
        np.exp(x - x.max(-1, keepdims=True)) / np.exp(x - x.max(-1, keepdims=True)).sum(-1, keepdims=True)
    )
    return -(softmax(np.float64(target)) * np.log(softmax(np.float64(scores)))).sum(-1)


@pytest.mark.parametrize("task_type", TASK_TYPES)
def test_the_penalty_of_every_task_type_by_hand(task_type):
    batch, source = toy_batch(task_type), np.random.default_rng(1)
    shape = {
        "tagging": (*batch.ids_BL.shape, 3),
        "regression": (16, 1),
        "classification": (16, 3),
        "question_answering": (2, *batch.ids_BL.shape),
    }[task_type]
    clean, other = source.normal(size=(2, *shape)).astype(np.float32)
    wrap = lambda array: IndependentOutputs(*array) if task_type == "question_answering" else array
    config = types.SimpleNamespace(embedding_size=8)
    model = types.SimpleNamespace(task_type=task_type, special=SPECIAL, config=config)
    spy = Spy(
        model,
        lambda variables, ids, is_training, labels, perturbation, packed, rngs: wrap(
            other + 0.0 * perturbation.sum()
        ),
    )
    found = sift_penalty(spy, {}, batch, wrap(jnp.asarray(clean)), PUBLISHED, key())
    assert [perturbation.shape for perturbation in spy.perturbations] == [(*batch.ids_BL.shape, 8)] * 2
    assert spy.keys[0] != spy.keys[1]  # each pass draws its dropout mask
    if task_type == "regression":
        expected = 2 * np.square(clean - other)[:13].mean()
    elif task_type == "question_answering":  # eight tokens of context and [CLS]
        clean, other = (array[:, :13, [0, *range(6, 14)]] for array in (clean, other))
        expected = (cross_entropy(clean, other) + cross_entropy(other, clean)).mean()
    else:
        is_scored = batch.is_scored
        assert 0 < is_scored.sum() < is_scored.size
        expected = (cross_entropy(clean, other) + cross_entropy(other, clean))[is_scored].mean()
    np.testing.assert_allclose(found, expected, rtol=1e-5)
