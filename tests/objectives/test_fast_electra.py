"""Fast-ELECTRA: its samples and losses against ELECTRA's and NumPy's, the schedule of the temperature, and
what a finished generator costs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import softmax

from electra_jax.models.config import make_pretraining_config
from electra_jax.models.flops import discriminator_flops
from electra_jax.models.inputs import derive_inputs
from electra_jax.models.pretraining import MaskedLanguageModel
from electra_jax.objectives import fast_electra, rtd
from electra_jax.objectives.electra import electra_flops
from electra_jax.objectives.fast_electra import temperature_at
from electra_jax.objectives.mlm import mlm_flops
from electra_jax.objectives.registry import forward_flops
from electra_jax.objectives.vocabulary import predict_vocabulary
from support.tiny import LENGTH, SPECIAL, key, rows
from support.tiny_ablations import CHUNK, O0, VOCAB, full_config, make, random_params
from support.tiny_teachers import WIDE, settings, teacher

IDS = rows(4, LENGTH, vocab_size=VOCAB)


def fast(*models, model=None, **changes):
    """The objective with generators from runs with these entries."""
    return make("fast_electra", "model", model, **settings(*models, **changes))


def prepared(objective):
    """Its batch of IDS."""
    return jax.jit(objective.prepare, compiler_options=O0)(key(1), jnp.asarray(IDS))


def watched_loss(monkeypatch, objective):
    """(parameters, batch) → (loss, (sums, the ids that the discriminator sees)) of a training step."""
    seen, logits_of = [], rtd.detection_logits

    def watched(model, params, corrupted_BL, *others):
        seen.append(corrupted_BL)
        return logits_of(model, params, corrupted_BL, *others)

    for module in (rtd, fast_electra):
        monkeypatch.setattr(module, "detection_logits", watched)

    def loss(params, batch):
        normalizers = objective.normalizers(batch)
        value, (sums, _) = objective.phases[0].loss(params, batch, normalizers, key(2), None)
        return value, (sums, seen.pop())

    return loss


def gradients_of(monkeypatch, objective, params, batch):
    """(loss, sums, those ids, gradients of all parameters)."""
    with monkeypatch.context() as patch:
        loss = watched_loss(patch, objective)
        run = jax.jit(jax.value_and_grad(loss, has_aux=True), compiler_options=O0)
        (value, (sums, corrupted_BL)), grads = jax.device_get(run(params, batch))
    return value, sums, corrupted_BL, grads


@pytest.mark.parametrize(("sharing", "chunk_size"), [("tied", 0), ("none", CHUNK)])
def test_at_temperature_1_it_is_electra_with_that_generator(monkeypatch, sharing, chunk_size):
    """Ids, losses and the discriminator's gradients have the same bits; the generator has no gradient."""
    model, changes = {"embedding_sharing": sharing}, {"vocab_chunk_size": chunk_size, "disc_weight": 50.0}
    electra = make("electra", "model", model, gen_weight=0.0, **changes)
    ours = fast(teacher("electra", **model), model=model, start_temperature=1.0, **changes)
    params = random_params(electra)
    embeddings = "embeddings" if sharing == "tied" else "discriminator_embeddings"
    trained = {"embeddings": params[embeddings]}
    trained |= {name: params[name] for name in ("discriminator", "discriminator_predictions")}
    frozen = {name: tree for name, tree in params.items() if not name.startswith("discriminator")}
    tempered = ours.at_progress(prepared(ours), jnp.float32(0.25))
    expected = gradients_of(monkeypatch, electra, params, tempered.masked)
    value, sums, corrupted_BL, grads = gradients_of(
        monkeypatch, ours, trained | {"teachers": {"teacher_0": frozen}}, tempered
    )
    np.testing.assert_array_equal(corrupted_BL, expected[2])
    assert (corrupted_BL != IDS).sum() > 5 and value == expected[0] > 1.0
    for name, total in expected[1].items():
        np.testing.assert_array_equal(sums[name], total, err_msg=name)
    same = ["discriminator", "discriminator_predictions"]
    jax.tree.map(np.testing.assert_array_equal, [grads[n] for n in same], [expected[3][n] for n in same])
    if sharing == "none":  # nothing of the generator's loss is in them
        jax.tree.map(np.testing.assert_array_equal, grads["embeddings"], expected[3][embeddings])
    assert not any(leaf.any() for leaf in jax.tree.leaves(grads["teachers"]))


def test_it_samples_in_proportion_to_a_root_of_the_probabilities(monkeypatch):
    """The ids that the discriminator sees are NumPy's inverse CDF of p^(1/T), p of the finished model alone,
    which is wider, has dropout and another number of token types. Evaluations (None) draw at the last T."""
    entry = teacher("mlm", WIDE, hidden_dropout=0.5, attention_dropout=0.5)
    chosen = {"start_temperature": 3.0, "temperature": 0.5, "temperature_share": 0.1}
    ours = fast(entry, model={"type_vocab_size": 1}, **chosen)
    params, batch = random_params(ours), prepared(ours)
    masked = batch.masked
    probabilities_BPV = probabilities_of(entry["model"], params["teachers"]["teacher_0"], masked)
    run = jax.jit(watched_loss(monkeypatch, ours), compiler_options=O0)
    for progress, temperature in ((None, 0.5), (0.0, 3.0), (0.1, 0.5 + 2.5 / np.e)):
        of_step = batch if progress is None else ours.at_progress(batch, jnp.float32(progress))
        _, (sums, corrupted_BL) = jax.device_get(run(params, of_step))
        weights_BPV = probabilities_BPV ** (1 / temperature)
        cumulative_BPV = np.cumsum(weights_BPV / weights_BPV.sum(-1, keepdims=True), axis=-1)
        samples_BP = (cumulative_BPV <= np.float64(masked.uniforms_BP)[..., None]).sum(-1)
        expected_BL = IDS.copy()
        for row, slot in zip(*np.nonzero(masked.weights_BP), strict=True):
            expected_BL[row, masked.positions_BP[row, slot]] = samples_BP[row, slot]
        np.testing.assert_array_equal(corrupted_BL, expected_BL)
        np.testing.assert_allclose(sums["sampling_temperature"] / sums["mlm_weight"], temperature, rtol=1e-6)


def probabilities_of(config, params, masked):
    """Of a masked language model with this config.model, [B, P, V]."""
    generator = MaskedLanguageModel(make_pretraining_config(config))
    inputs = derive_inputs(masked.ids_BL, SPECIAL, config["type_vocab_size"])
    generate = functools.partial(generator.apply, is_training=False, method="generate")
    logits = jax.jit(generate, compiler_options=O0)(
        {"params": params}, masked.masked_ids_BL, inputs, masked.positions_BP
    )
    x_BPE, table_VE, bias_V = (np.float64(part) for part in logits)
    return softmax(x_BPE @ table_VE.T + bias_V, axis=-1)


@pytest.mark.parametrize("chunk_size", [0, 16])
def test_each_position_can_have_its_own_temperature(chunk_size):
    num_draws, temperatures = 4_000, np.array([0.5, 1.0, 4.0], np.float32)
    rng = np.random.default_rng(0)
    state_E, table_VE = rng.normal(size=8).astype(np.float32), rng.normal(size=(40, 8)).astype(np.float32)
    bias_V = np.sort(rng.normal(size=40)).astype(np.float32)
    # Ascending logits: every chunk has a larger maximum than the one before.
    table_VE = table_VE[np.argsort(table_VE @ state_E)]
    shape = (3, num_draws)
    samples_BP = jax.jit(
        lambda temperature_BP: (
            predict_vocabulary(
                jnp.broadcast_to(state_E, (*shape, 8)),
                jnp.asarray(table_VE),
                jnp.asarray(bias_V),
                jnp.zeros(shape, jnp.int32),
                jax.random.uniform(key(3), shape),
                temperature=temperature_BP,
                chunk_size=chunk_size,
                dtype="float32",
            ).samples_BP
        ),
        compiler_options=O0,
    )(jnp.broadcast_to(temperatures[:, None], shape))
    probabilities_V = softmax(table_VE.astype(np.float64) @ state_E + bias_V)
    for samples_P, temperature in zip(np.asarray(samples_BP), temperatures, strict=True):
        expected_V = probabilities_V ** (1 / temperature)
        expected_V /= expected_V.sum()
        deviation_V = np.sqrt(expected_V * (1 - expected_V) / num_draws)
        share_V = np.bincount(samples_P, minlength=40) / num_draws
        np.testing.assert_array_less(np.abs(share_V - expected_V), 5 * deviation_V + 1e-4)


def test_the_temperature_falls_as_configured():
    section = {"start_temperature": 2.0, "temperature": 0.8, "temperature_share": 0.25}
    progress = np.array([0.0, 0.125, 0.25, 0.5, 1.0])
    at = lambda decay: temperature_at(section | {"temperature_decay": decay}, progress)
    np.testing.assert_allclose(at("linear"), [2.0, 1.4, 0.8, 0.8, 0.8], rtol=1e-6)
    np.testing.assert_allclose(at("exponential"), 0.8 + 1.2 * np.exp(-4 * progress), rtol=1e-6)


def test_a_whole_number_as_the_last_temperature_does_not_cut_the_others():
    ours = fast(teacher("mlm"), start_temperature=1.75, temperature=1)
    tempered = ours.at_progress(prepared(ours), jnp.float32(0.0))
    np.testing.assert_array_equal(tempered.temperature_B, np.full(4, 1.75, np.float32))


@pytest.mark.parametrize(
    ("entry", "generator_of", "flops"),
    [
        (teacher("mlm", WIDE), "discriminator", mlm_flops),
        (
            teacher("electra", generator=WIDE),
            "generator",
            lambda *about: electra_flops(*about) - discriminator_flops(*about[:2]),
        ),
    ],
    ids=["mlm", "electra"],
)
def test_the_generator_costs_a_forward_pass(entry, generator_of, flops):
    """One of the three that a trained one is counted as, whatever the shape in the run's own config.model."""
    full = full_config("fast_electra", **settings(entry))
    model, theirs = make_pretraining_config(full["model"]), make_pretraining_config(entry["model"])
    assert getattr(theirs, generator_of).hidden_size == WIDE["hidden_size"]
    expected = discriminator_flops(model, LENGTH) + flops(theirs, LENGTH, full["objective"]) / 3
    np.testing.assert_allclose(forward_flops(full, model), expected, rtol=1e-12)


def test_without_its_generator_tokens_are_unigrams():
    """As readers of a run see it: the modules of the discriminator, which can be evaluated."""
    alone = fast()
    assert alone.frozen == () and set(alone.phases[0].trains) == set(
        jax.eval_shape(lambda: alone.init(key(), LENGTH))
    )
    unigram = make("electra", "unigram")
    np.testing.assert_array_equal(prepared(alone).corrupted_BL, prepared(unigram).corrupted_BL)


@pytest.mark.parametrize(
    ("entries", "changes", "message"),
    [
        (
            [teacher("mlm"), teacher("mlm")],
            {},
            r"config\.objective\.teachers: got 2 runs, expected one with config\.objective\.name='fast_el",
        ),
        (
            [teacher("mlm")],
            {"temperature": 3.0},
            r"config\.objective\.start_temperature: got 2\.0, expected at least .*temperature=3\.0",
        ),
        (
            [teacher("mlm")],
            {"z_loss_weight": 0.1},
            r"z_loss_weight: got 0\.1, expected 0: objective 'fast_el",
        ),
    ],
    ids=["two generators", "rising temperature", "no loss of the generator"],
)
def test_settings_that_do_not_fit_are_refused(entries, changes, message):
    with pytest.raises(ValueError, match=message):
        fast(*entries, **changes)
