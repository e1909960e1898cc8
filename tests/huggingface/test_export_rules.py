"""What an export takes from the stage of a run, and from its family: rows, thetas, notes, dropout."""

import json
import re

import pytest

from data_pipelines.tokenizers.load import load_tokenizer
from electra_jax.configuration.stages import make_stages, stage_at
from electra_jax.conversion import export_run
from electra_jax.conversion.export_run import make_verification_inputs
from electra_jax.conversion.export_task import example_rows
from electra_jax.finetuning.model_files import SavedModel
from electra_jax.finetuning.models import make_head
from electra_jax.finetuning.pooling import POOLINGS
from electra_jax.huggingface.card_parts import describe_shape
from electra_jax.huggingface.checks import noted_special
from electra_jax.huggingface.comparison_rows import MAX_LENGTH
from electra_jax.huggingface.comparison_texts import VerificationText
from electra_jax.huggingface.configuration import from_config_json, to_config_json
from electra_jax.huggingface.export import TRAINING_FILE, special_notes
from electra_jax.huggingface.families import FAMILIES
from electra_jax.huggingface.pretraining_checks import wanted_config
from electra_jax.huggingface.training_settings import read_training_settings
from electra_jax.models.config import make_encoder_config, make_pretraining_config
from electra_jax.models.published_sizes import MODERN_SIZES, half_depth
from electra_jax.runs.trained import load_run
from support import tiny_export
from support.tiny import SPECIAL

MODELS = {
    "absolute": tiny_export.electra_model(),
    "disentangled": tiny_export.deberta_model(),
    "relative_bias": tiny_export.relative_model(),
    "rotary": tiny_export.modern_model(),
}
CHANGES = {
    "model.rotary.global_theta": 1e6,
    "objective.mask_prob": 0.4,
    "optimizer.schedule": "warmup_constant",
    "optimizer.learning_rate": 3e-4,
    "data.sequence_length": 24,
    "data.datasets": ["long"],
}


def described(directory, data, stages, **more):
    """training_config.json of a tiny ModernBERT with these stages."""
    config = tiny_export.make_config(tiny_export.modern_model(), data)
    config["stages"] = stages
    (directory / TRAINING_FILE).write_text(json.dumps({"config": config, **more}))
    return config


def test_an_import_takes_the_settings_of_the_last_stage(data, tmp_path):
    config = described(tmp_path, data, [[5, {"objective.mask_prob": 0.2}], [9, CHANGES]])
    got, last = read_training_settings(tmp_path / TRAINING_FILE), make_stages(config)[-1].config
    assert got["objective"]["mask_prob"] == 0.4 and got["model"]["rotary"]["global_theta"] == 1e6
    assert got["data"] == {"sequence_length": 24}
    for section in ("model", "objective", "optimizer"):
        assert got[section] == last[section]


@pytest.mark.parametrize("step", [0, 5, 6, 9, 10, 14, 15, 10**9])
def test_an_import_takes_the_settings_of_the_stage_of_its_step(step, data, tmp_path):
    share = {"optimizer.schedule": "warmup_constant_sqrt", "optimizer.decay_share": 0.5}
    stages = [
        [5, {"optimizer.schedule": "warmup_constant_sqrt", "optimizer.decay_steps": 3}],
        [9, CHANGES],
        [14, share],
    ]
    config = described(tmp_path, data, stages, step=step)
    got = read_training_settings(tmp_path / TRAINING_FILE)
    wanted = stage_at(config, min(step, config["train"]["num_steps"])).config
    assert got["data"] == {"sequence_length": wanted["data"]["sequence_length"]}
    for section in ("model", "objective", "optimizer"):
        assert got[section] == wanted[section]


@pytest.mark.parametrize("step", [True, 1.5, "9", None, [9]], ids=repr)
def test_a_step_of_another_type_is_refused(step, data, tmp_path):
    described(tmp_path, data, [[9, CHANGES]], step=step)
    with pytest.raises(ValueError, match="Fetch the model again"):
        read_training_settings(tmp_path / TRAINING_FILE)


@pytest.mark.parametrize(
    "changes",
    [
        [],
        5,
        {"model": 5},
        {"model.rotary.more.deep": 1},
        {"objective.mask_prob": []},
        {"optimizer.groups": 5},
    ],
    ids=["list", "number", "section", "unknown key", "a list as a value", "groups"],
)
def test_stages_of_another_form_are_refused(changes, data, tmp_path):
    described(tmp_path, data, [[5, changes]])
    with pytest.raises(ValueError, match="Fetch the model again"):
        read_training_settings(tmp_path / TRAINING_FILE)


@pytest.mark.parametrize("key", ["objective.mask_prob", "optimizer.learning_rate", "optimizer.groups"])
@pytest.mark.parametrize("value", [{}, {"a": 1}, [[]], "x", None], ids=repr)
def test_a_stage_with_a_value_of_another_type_is_refused_by_name(key, value, data, tmp_path):
    described(tmp_path, data, [[5, {key: value}]])
    with pytest.raises(ValueError, match=re.escape(f"config.{key}: got {value!r}, expected")):
        read_training_settings(tmp_path / TRAINING_FILE)


@pytest.mark.parametrize(("step", "theta"), [(0, 160_000.0), (5, 160_000.0), (6, 1e6), (10**9, 1e6)])
def test_a_later_stage_is_expected_to_have_its_own_theta(step, theta, data, tmp_path):
    described(tmp_path, data, [[5, {"model.rotary.global_theta": 1e6}]], step=step)
    notes = {
        "role": "discriminator",
        "dtype": "float32",
        "config_additions": {},
        "has_exact_logits": True,
        "pad_token_id": 0,
    }
    assert wanted_config(tmp_path, notes)["global_rope_theta"] == theta


SOURCES = {"none": (), "a long line": ("one of the words " * 2000,)}


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("kind", ["classification", "tagging"])
def test_rows_of_a_task_are_never_longer_than_memory_allows(source, kind, data):
    saved = SavedModel(None, {}, load_tokenizer(str(data / "tokenizer_corpus")), None)
    rows = example_rows(kind, saved, VerificationText(source, SOURCES[source], ()), 1 << 20)
    assert rows.shape[1] == MAX_LENGTH
    short = example_rows(kind, saved, VerificationText(source, SOURCES[source], ()), 32)
    assert short.shape[1] == 32


def test_rows_of_a_run_are_never_longer_than_memory_allows(data, tmp_path, monkeypatch):
    """Its tokenizer's limit is the row length of its stage."""
    monkeypatch.setattr(export_run, "MAX_LENGTH", 48)  # as many more ids take seconds
    model = tiny_export.modern_model(max_position_embeddings=1 << 20)
    run = load_run(tiny_export.make_run(tmp_path / "run", data, model)[0])
    config = run.config | {"data": run.config["data"] | {"sequence_length": 5000}}
    config["stages"] = [[5, {"data.sequence_length": 6000, "data.datasets": ["long"]}]]
    run = run._replace(description=run.description | {"config": config})
    inputs = make_verification_inputs(run, VerificationText("none", (), ()), "float32")
    assert inputs.rows.corrupted_BL.shape[1] == 48
    assert (run.row_length, run._replace(step=6).row_length) == (5000, 6000)


def test_only_families_with_a_table_of_positions_name_its_length():
    has_table = {position: family.has_position_table for position, family in FAMILIES.items()}
    assert has_table == dict.fromkeys(MODELS, True) | {"rotary": False}
    for position, model in MODELS.items():
        encoder = make_pretraining_config(model).discriminator
        assert ("up to 32 positions" in describe_shape(encoder)) == has_table[position]


@pytest.mark.parametrize("position", MODELS)
def test_special_tokens_are_noted_as_far_as_the_configuration_has_them(position):
    encoder = make_pretraining_config(MODELS[position]).discriminator
    config = to_config_json(encoder, "discriminator", special=SPECIAL, dtype="float32")
    notes = special_notes(SPECIAL, config)
    assert set(notes) == {"pad_token_id", *(["special_ids"] if position == "rotary" else [])}
    again = to_config_json(encoder, "discriminator", special=noted_special(notes), dtype="float32")
    assert again == config


def test_a_run_and_its_export_are_fine_tuned_with_the_same_dropout():
    of_run = make_pretraining_config(MODELS["rotary"]).discriminator
    config = to_config_json(of_run, "discriminator", special=SPECIAL, dtype="float32")
    fields = from_config_json(config, enhanced_mask_decoder=False, dtype=of_run.dtype)
    of_export = make_encoder_config(fields | {"initializer": of_run.initializer})
    assert of_run != of_export  # the rate of the attention's output is not in the file
    assert of_run.with_dropout(0.2, 0.3) == of_export.with_dropout(0.2, 0.3)
    encoder = of_run.with_dropout(0.2, 0.3)
    assert (encoder.hidden_dropout, encoder.attention_dropout) == (0.2, 0.3)
    assert encoder.rotary.attention_output_dropout == 0.3
    assert make_pretraining_config(MODELS["absolute"]).discriminator.with_dropout(0.2, 0.3).rotary is None


@pytest.mark.parametrize("every", [1, 2, 3, 5])
def test_a_generator_made_at_import_ends_with_a_global_layer(every):
    for num_layers in range(1, 40):
        layers = half_depth(num_layers, every)
        assert (layers - 1) % every == 0 and abs(layers - num_layers / 2) <= max(every / 2, 0.5)
    for size in MODERN_SIZES.values():
        assert size.generator["num_layers"] == half_depth(size.num_layers, 3)


@pytest.mark.parametrize("position", MODELS)
def test_an_unknown_pooling_is_refused(position):
    encoder = make_pretraining_config(MODELS[position]).discriminator
    for pooling in ("max", None, 5):
        with pytest.raises(ValueError, match=r"config\.model\.pooling: got .*, expected one of cls, mean"):
            make_head(encoder, SPECIAL, "classification", 2, "published", 0.1, pooling)
    for pooling in POOLINGS:
        make_head(encoder, SPECIAL, "classification", 2, "published", 0.1, pooling)
