"""The rows of the registry: FLOPs, metrics, settings, published modules, and settings that are refused."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import deberta_v3, debug
from configs import electra as electra_config
from configs import mcl as mcl_config
from electra_jax.configuration.objectives import apply_objective
from electra_jax.configuration.sizes import with_assumed_sizes
from electra_jax.huggingface.published_models import MODULES
from electra_jax.models.config import make_pretraining_config
from electra_jax.models.flops import discriminator_flops, masked_head_flops
from electra_jax.objectives.base import TOKENS, Phase
from electra_jax.objectives.denoisers import PieceTables
from electra_jax.objectives.electra import electra_flops
from electra_jax.objectives.mlm import Z_LOSS_METRIC, mlm_flops
from electra_jax.objectives.registry import (
    NOT_PUBLISHED,
    OBJECTIVES,
    OWN_KEYS,
    first_stage_from,
    forward_flops,
    make_objective,
    own_settings,
    parameter_form,
    settings_not_read,
)
from electra_jax.training.step import abstract_window
from support.tiny import LENGTH, SPECIAL, electra, key, mlm, objective_section
from support.tiny_ablations import full_config, make
from support.tiny_teachers import WIDE, settings, teacher

OF_ELECTRA = [name for name in OBJECTIVES if name not in ("deberta_v3", "mcl")]


def shapes_of(objective):
    """(parameters, window of metric sums) of an objective; nothing is computed."""
    params = jax.eval_shape(lambda: objective.init(key(), LENGTH))
    return params, abstract_window(objective, params, 2, LENGTH)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_row_tells_what_its_objective_has(name):
    """Its metrics have their sums, and every module is published, or named as not published."""
    row = OBJECTIVES[name]
    with_z_loss = {"z_loss_weight": 0.1} if Z_LOSS_METRIC in row.metrics else {}
    teachers = settings(teacher(row.teachers_of[0], WIDE)) if row.teachers_of else {}
    hidden = {"hidden_weight": 1.0} if "hidden_weight" in row.settings else {}
    params, window = shapes_of(make(name, **with_z_loss, **teachers, **hidden))
    assert row.name == name and row.title and row.metrics
    for metrics in row.metrics:
        assert set(metrics.sums) <= set(window), metrics.sums
    assert set(params) <= {*MODULES, *NOT_PUBLISHED}
    assert set(row.not_published) == set(params) - set(MODULES)


class Watched(Mapping):
    """Settings that keep the keys which are read."""

    def __init__(self, values):
        self.values_by_key, self.read = values, set()

    def __getitem__(self, key):
        self.read.add(key)
        return self.values_by_key[key]

    def __iter__(self):
        return iter(self.values_by_key)

    def __len__(self):
        return len(self.values_by_key)


@pytest.mark.parametrize(
    ("name", "generator"),
    [
        (name, generator)
        for name, row in OBJECTIVES.items()
        for generator in ("model", *(["unigram"] if row.make_with_fixed_generator else []))
    ],
)
def test_a_row_declares_the_shared_settings_that_its_objective_does_not_read(name, generator):
    row = OBJECTIVES[name]
    teachers = settings(teacher(row.teachers_of[0], WIDE)) if row.teachers_of else {}
    full = full_config(name, generator, **teachers)
    watched = Watched(full["objective"] | {"pieces": PieceTables()})
    make_one = row.make if generator == "model" else row.make_with_fixed_generator
    shapes_of(make_one(make_pretraining_config(full["model"]), watched, SPECIAL))
    # Another value than 0 of z_loss_weight is refused where it is not read.
    shared = full["objective"].keys() - OWN_KEYS.keys() - {"name", "generator", "z_loss_weight"}
    assert {*settings_not_read(full["objective"])} == shared - watched.read


def test_a_phase_without_the_number_of_tokens_is_refused():
    def loss(params, batch, normalizers, dropout_key, carry):
        value, (sums, carry) = phase.loss(params, batch, normalizers, dropout_key, carry)
        return value, ({name: total for name, total in sums.items() if name != TOKENS}, carry)

    objective = electra()
    (phase,) = objective.phases
    with pytest.raises(ValueError, match="expected one of its phases to give 'tokens'"):
        shapes_of(objective._replace(phases=(Phase(phase.name, phase.trains, loss),)))


def test_an_objective_counts_its_targets():
    objective = make("electra", "unigram")
    batch = objective.prepare(key(1), jnp.full((2, LENGTH), 9, jnp.int32))
    ids, weights = objective.targets(batch)
    assert ids.shape == weights.shape and (ids == 9).all() and weights.sum() > 0


def test_settings_are_those_that_an_objective_reads():
    """Of a configuration with the keys of all objectives, as older runs have it."""
    shared = objective_section()
    every = shared | {key: value for row in OBJECTIVES.values() for key, value in row.settings.items()}
    for name, row in OBJECTIVES.items():
        settings = own_settings(every | {"name": name, "mask_prob": 0.3} | dict.fromkeys(row.settings, 0.25))
        assert set(settings) == set(shared) | set(row.settings)
        assert settings["mask_prob"] == 0.3 and all(settings[key] == 0.25 for key in row.settings)
        assert own_settings(shared | {"name": name}) == shared | {"name": name} | dict(row.settings)


def test_a_key_that_the_objective_does_not_read_is_refused():
    with pytest.raises(ValueError, match=r"random_token_prob: got 0\.1, but objective 'electra_15' does not"):
        make("electra_15", mask_token_prob=0.8, random_token_prob=0.1)
    make("electra_15", random_token_prob=0.0)  # its default, as in older runs


def test_another_objective_changes_a_configuration():
    config = debug.get_config()
    apply_objective(config, "replace_mlm")
    config.objective.token_weight = 3.0
    apply_objective(config, "all_tokens_mlm")
    assert config.objective.token_weight == 3.0 and config.objective.vocab_chunk_size == 0
    assert with_assumed_sizes(config.to_dict())["objective"]["vocab_chunk_size"] == 256
    apply_objective(config, "two_stage")
    assert "token_weight" not in config.objective and config.model.generator == config.model.discriminator
    with pytest.raises(ValueError, match=r"config\.objective\.name: got 'other', expected one of \["):
        apply_objective(config, "other")


def test_runs_of_one_form_can_start_from_each_other():
    form = lambda name, generator="model": parameter_form({"name": name, "generator": generator})
    assert form("electra") == form("deberta_v3") == form("electra_15") == form("two_stage")
    assert form("electra", "unigram") == form("electra_15", "uniform")
    assert form("electra", "unigram") == form("fast_electra")
    assert form("mlm") == form("distillation") == form("prop") and form("electra") == form("rtd_distillation")
    others = [form(name) for name in ("electra", "mlm", "mcl", "replace_mlm", "adversarial", "electric")]
    assert len({*others, form("electra", "unigram")}) == 7


def test_the_second_stage_continues_the_first():
    second, first = (jax.eval_shape(lambda o=o: o.init(key(), LENGTH)) for o in (make("two_stage"), mlm()))
    stage = first_stage_from("mlm", second)
    assert stage.objective == "mlm" and {*stage.modules.values(), *stage.copies.values()} == set(first)
    assert first_stage_from("electra", second) is None and first_stage_from("mlm", first) is None


def test_random_tokens_belong_to_masked_language_modelling():
    mlm(mask_token_prob=0.8, random_token_prob=0.2)
    for changes in ({"random_token_prob": 0.21}, {"random_token_prob": -0.1}):
        with pytest.raises(
            ValueError, match=r"config\.objective\.random_token_prob: got .*, expected 0 … 0\.2"
        ):
            mlm(mask_token_prob=0.8, **changes)


# By hand, for one layer of 16 in each encoder, 64 words and rows of 24: 8·16² + 4·16·64 + 4·24·16 = 7,680 a
# layer.
LAYER, HEAD, DETECTION = 7680, 2 * 16 * 16 + 2 * 16 * 64, 2 * 16 * 16 + 2 * 16


@pytest.mark.parametrize(
    ("name", "generator", "expected"),
    [
        ("electra_15", "model", 2 * LAYER + 0.15 * HEAD + DETECTION),
        ("two_stage", "model", (LAYER + 0.15 * HEAD) / 3 + LAYER + DETECTION),
        ("replace_mlm", "model", 2 * LAYER + 2 * 0.15 * HEAD),
        ("all_tokens_mlm", "model", 2 * LAYER + 1.15 * HEAD + 2 * 16),
        ("adversarial", "model", 2 * LAYER + 0.15 * (HEAD + 2 * 16) + DETECTION),
        ("electric", "model", 3 * LAYER + HEAD + 2 * 16 * 16 + DETECTION + 2 * 0.15 * 2 * 16 * 64 / 3),
        ("electra", "uniform", LAYER + DETECTION),
    ],
)
def test_flops(name, generator, expected):
    full = full_config(name, generator)
    model = make_pretraining_config(full["model"])
    np.testing.assert_allclose(forward_flops(full, model), expected, rtol=1e-12)
    np.testing.assert_allclose(
        electra_flops(model, LENGTH, full["objective"]) - discriminator_flops(model, LENGTH),
        LAYER + 0.15 * HEAD,
    )
    np.testing.assert_allclose(
        mlm_flops(model, LENGTH, full["objective"]), LAYER + masked_head_flops(model.discriminator, 0.15)
    )


@pytest.mark.parametrize(
    ("name", "generator", "model", "message"),
    [
        (
            "mlm",
            "unigram",
            {},
            r"config\.objective\.generator: got 'unigram', expected model with config\.objective\.name='mlm'",
        ),
        (
            "electra",
            "bigram",
            {},
            r"config\.objective\.generator: got 'bigram', expected model or uniform or unigram with",
        ),
        (
            "two_stage",
            "model",
            {"embedding_sharing": "tied"},
            r"config\.model\.embedding_sharing: got 'tied', expected 'none'",
        ),
        (
            "two_stage",
            "model",
            {"generator": {"hidden_size": 8, "num_layers": 1, "num_heads": 1, "intermediate_size": 32}},
            r"config\.model\.generator: got another shape",
        ),
        (
            "electric",
            "model",
            {"embedding_sharing": "none"},
            r"config\.model\.embedding_sharing: got 'none', expected 'tied'",
        ),
    ],
)
def test_settings_that_do_not_fit_together_are_refused(name, generator, model, message):
    with pytest.raises(ValueError, match=message):
        make(name, generator, model)


@pytest.mark.parametrize("name", ["electric", "replace_mlm"])
def test_some_objectives_need_encoders_of_electra(name):
    full = full_config(name) | {
        "model": with_assumed_sizes(debug.get_config("model=deberta_v3").to_dict())["model"]
    }
    with pytest.raises(ValueError, match=r"config\.model\.position: got 'disentangled', expected 'absolute'"):
        make_objective(full, make_pretraining_config(full["model"]), SPECIAL)


def test_objectives_that_use_the_probabilities_of_samples_refuse_a_temperature():
    for name in ("adversarial", "electric"):
        with pytest.raises(ValueError, match=r"config\.objective\.temperature: got 0\.9, expected 1\.0"):
            make(name, temperature=0.9)


@pytest.mark.parametrize("name", OF_ELECTRA)
def test_recipes_choose_any_objective_and_have_only_its_keys(name):
    keys = set(objective_section(name))
    assert keys == set(objective_section()) | set(OBJECTIVES[name].settings)
    for config in (
        electra_config.get_config(f"size=small,objective={name}"),
        debug.get_config(f"objective={name}"),
    ):
        config = with_assumed_sizes(config.to_dict())
        assert config["objective"]["name"] == name and set(config["objective"]) == keys
        model = make_pretraining_config(config["model"])
        assert make_objective(config, model, SPECIAL).phases and forward_flops(config, model) > 0


def test_recipes_of_other_architectures_have_only_the_keys_of_their_objective():
    assert set(deberta_v3.get_config("size=xsmall").objective) == set(objective_section())
    assert set(mcl_config.get_config("size=small").objective) == set(objective_section("mcl"))
    assert set(mcl_config.get_config("size=small,objective=electra").objective) == set(objective_section())
