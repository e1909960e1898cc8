"""The longest row that an export's tokenizer allows: what the model reads, whatever wrote the model."""

import json
import shutil

import pytest
import transformers

from data_pipelines.tokenizers.adopt import declared_length
from data_pipelines.tokenizers.load import load_tokenizer
from electra_jax.conversion import export_run
from electra_jax.conversion import export_task as export_task_module
from electra_jax.conversion.export_task import export_task
from electra_jax.conversion.import_checkpoint import import_checkpoint
from electra_jax.finetuning.encoders import RANDOM, load_encoder
from electra_jax.huggingface.families import readable_length
from electra_jax.models.config import make_pretraining_config
from electra_jax.runs.trained import load_run
from support import tiny_export
from support.forged_export import edit_config
from support.import_options import DEFAULT
from support.tiny_task_exports import UNSAID, make_model, save_random

LIMIT = 2048  # of positions, more than the rows of any recipe have
MODERN = tiny_export.modern_model(max_position_embeddings=LIMIT)
# What transformers writes for a tokenizer without a limit.
UNLIMITED = 1_000_000_000_000_000_019_884_624_838_656


@pytest.fixture(autouse=True, scope="module")
def _cheap():
    """Exports are not verified, as other tests do, and compare short rows."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(export_run, "verify_if_possible", lambda directory, lines: None)
        for module in (export_run, export_task_module):
            patched.setattr(module, "MAX_LENGTH", 16)
        yield


@pytest.fixture(scope="module")
def exported(data, tmp_path_factory):
    """An export of a ModernBERT that read far shorter rows than it has positions for."""
    root = tmp_path_factory.mktemp("modern")
    run, _ = tiny_export.make_run(root / "run", data, MODERN)
    export_run.export_run(run, None, root / "export", tiny_export.PLAIN)
    return root / "export"


def read_length(directory):
    """What transformers takes for the longest row of a model."""
    return transformers.AutoTokenizer.from_pretrained(directory).model_max_length


def test_a_run_without_a_table_of_positions_names_its_row_length(exported):
    assert {read_length(exported / role) for role in ("discriminator", "generator")} == {tiny_export.LENGTH}


def test_an_import_reads_what_its_files_state(exported, tmp_path):
    """Its recipe has shorter rows."""
    theirs = shutil.copytree(exported, tmp_path / "theirs")
    for role in ("discriminator", "generator"):
        (theirs / role / "training_config.json").unlink()  # which only this project writes
        edit_config(theirs / role, "tokenizer_config.json", model_max_length=LIMIT - 48)
    import_checkpoint(theirs, tmp_path / "run", DEFAULT)
    run = load_run(tmp_path / "run")
    again = export_run.export_run(run.workdir, None, tmp_path / "again", tiny_export.PLAIN)
    assert [read_length(directory) for directory in again] == [LIMIT - 48] * 2
    assert run.row_length < LIMIT - 48
    trained = lambda name: load_encoder(name, tmp_path / "tokenizer").trained_length
    assert trained(str(run.workdir)) == LIMIT - 48 and trained(RANDOM + str(run.workdir)) == 0
    edit_config(theirs / "discriminator", "tokenizer_config.json", model_max_length=None)
    assert trained(str(theirs / "discriminator")) == LIMIT


def test_a_task_names_the_length_that_its_model_was_trained_on(data, tmp_path):
    models = {
        "told": save_random(
            tmp_path / "told",
            load_tokenizer(str(data / "tokenizer_corpus")),
            MODERN,
            "tagging",
            "published",
            trained_length=24,
        ),
        # Older models do not record it.
        "untold": make_model(tmp_path / "untold", data, MODERN, "tagging", "published"),
    }
    lengths = {
        name: read_length(export_task(model, tmp_path / f"{name}_export", "float32", UNSAID))
        for name, model in models.items()
    }
    assert lengths == {"told": 24, "untold": LIMIT}
    assert load_encoder(str(models["told"]), tmp_path / "tokenizer").trained_length == 24


@pytest.mark.parametrize("value", [UNLIMITED, 1e30, 0, -1, True, "512", [512]], ids=repr)
def test_what_is_no_length_is_not_stated(value, tmp_path):
    assert declared_length(tmp_path) is None
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"model_max_length": value}))
    length = declared_length(tmp_path)
    assert length == (value if value is UNLIMITED else None)
    # It is bounded where it is used.
    assert readable_length(make_pretraining_config(MODERN).discriminator, length or LIMIT) == LIMIT


def test_a_table_of_positions_is_the_limit_and_a_length_is_positive():
    table = make_pretraining_config(tiny_export.electra_model()).discriminator
    assert readable_length(table, 8) == tiny_export.LENGTH
    with pytest.raises(ValueError, match="trained_length: got -5, expected at least 1"):
        readable_length(make_pretraining_config(MODERN).discriminator, -5)
