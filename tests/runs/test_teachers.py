"""Runs that learn from teachers: what is written down, what is refused before anything is written, and
resuming."""

import contextlib
import json
import shutil

import jax
import numpy as np
import pytest

from electra_jax.models.config import encoder_shape
from electra_jax.objectives.registry import own_settings
from electra_jax.runs.pretraining import pretrain
from electra_jax.runs.teachers import with_teacher_models
from electra_jax.runs.trained import load_run
from electra_jax.training.checkpointing import Checkpointer
from support import devices, tiny_export
from support.checkpoint_arrays import arrays_of
from support.run_records import checkpoints
from support.tiny_export import LENGTH

SMALL = {"discriminator": encoder_shape(16, 1) | {"num_heads": 2}, "generator": encoder_shape(16, 1)}
WIDER = {"discriminator": encoder_shape(32, 1) | {"num_heads": 2}}


@pytest.fixture(scope="module")
def runs(data, tmp_path_factory):
    """Runs by name: "small" is of the student's shape, the others are not, or are no teachers."""
    root = tmp_path_factory.mktemp("teachers")
    models = {
        "small": (tiny_export.electra_model(**SMALL), "mlm"),
        "wide": (tiny_export.electra_model(**SMALL | WIDER), "mlm"),
        "electra": (tiny_export.electra_model(**SMALL), "electra"),
        "short": (tiny_export.electra_model(**SMALL, max_position_embeddings=LENGTH - 1), "mlm"),
        "words": (tiny_export.electra_model(**SMALL, vocab_size=tiny_export.VOCAB + 8), "mlm"),
    }
    return {
        name: tiny_export.make_run(root / name, data, model, objective)[0]
        for name, (model, objective) in models.items()
    }


def make_config(data, teachers, initial="", **objective):
    """A run of four steps; `objective` are keys of config.objective."""
    config = tiny_export.make_config(tiny_export.electra_model(**SMALL), data)
    config["objective"] = own_settings(config["objective"] | {"name": "distillation"})
    config["objective"] |= {"teachers": teachers, "hidden_weight": 1.0, **objective}
    config["checkpoint"] |= {"init_from": str(initial), "every": 2}
    config["train"] |= {"num_steps": 4, "batch_size": 8}
    config["optimizer"] |= {"warmup_steps": 1, "learning_rate": 1e-2}
    config["eval"] |= {"batch_size": 8, "max_batches": 1, "every": 4}
    config["log"] |= {"progress": False, "every": 1}
    return config


@pytest.fixture(scope="module")
def trained(runs, data, tmp_path_factory):
    """(configuration, run directory, copies of its teachers) of a run that was not interrupted."""
    root = tmp_path_factory.mktemp("student")
    for name in ("small", "wide"):
        shutil.copytree(runs[name], root / name)
    config = make_config(data, ["init_from", str(root / "wide")], root / "small")
    with devices.one_device():
        pretrain(config, root / "run")
    return config, root / "run", root


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_teachers_are_written_down(trained):
    _, run, root = trained
    config = json.loads((run / "config.json").read_text())["config"]
    objective = config["objective"]
    assert objective["teachers"] == [f"{root / 'small'}:0", f"{root / 'wide'}:0"]
    (session,) = read(run / "sessions.jsonl")
    assert session["teachers"] == objective["teachers"]
    for name, entry in zip(("small", "wide"), objective["teacher_models"], strict=True):
        theirs = json.loads((root / name / "config.json").read_text())["config"]
        assert entry["model"] == theirs["model"] and len(entry["checksum"]) == 64


def test_a_run_learns_from_teachers_that_stay_as_they_are(trained, runs):
    _, run, _ = trained
    state = arrays_of(run, 4)
    for number, name in enumerate(("small", "wide")):
        saved, theirs = state["params"]["teachers"][f"teacher_{number}"], load_run(runs[name]).params
        assert jax.tree.structure(saved) == jax.tree.structure(theirs)
        jax.tree.map(np.testing.assert_array_equal, saved, theirs)
    names = {
        str(part) for path, _ in jax.tree_util.tree_leaves_with_path(state["opt_state"]) for part in path
    }
    assert "['hidden_maps']" in names and "['teachers']" not in names
    rows = read(run / "metrics.jsonl")
    [evaluation] = [row for row in rows if "eval/mlm_loss" in row and row["step"] == 4]
    assert evaluation["eval/teacher_mlm_loss"] > 0 and evaluation["eval/teacher_kl"] > 0
    kl = [row["teacher_kl"] for row in rows if "teacher_kl" in row]
    assert len(kl) == 4 and kl[-1] != kl[0]


def test_readers_of_a_run_see_the_student(trained, runs):
    _, run, _ = trained
    assert set(load_run(run).params) == {"embeddings", "generator", "generator_predictions"}
    first = load_run(runs["small"]).params
    moved = jax.tree.map(lambda one, other: np.abs(one - other).max(), load_run(run).params, first)
    assert 0 < max(jax.tree.leaves(moved)) < 0.1  # four steps from config.checkpoint.init_from


def test_a_resumed_run_needs_no_teacher_and_is_the_same(one_device, trained, tmp_path):
    config, run, root = trained
    shutil.copytree(run, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "4")
    (tmp_path / "run" / "summary.json").unlink()
    hidden = root.rename(root.with_name("hidden"))
    try:
        pretrain(config, tmp_path / "run")
    finally:
        hidden.rename(root)
    one, other = arrays_of(run, 4), arrays_of(tmp_path / "run", 4)
    jax.tree.map(np.testing.assert_array_equal, one, other)
    assert len(read(tmp_path / "run" / "sessions.jsonl")) == 2


def test_another_teacher_under_the_same_name_is_refused(trained, tmp_path):
    config, run, root = trained
    shutil.copytree(run, tmp_path / "run")
    params = jax.tree.map(lambda leaf: leaf + 1, load_run(root / "wide").params)
    (root / "wide" / "checkpoints").rename(root / "wide" / "before")
    try:
        with contextlib.closing(Checkpointer(str(root / "wide" / "checkpoints"), keep=1)) as checkpointer:
            checkpointer.save_params(params, {})
        with pytest.raises(ValueError, match=r"wide:0 has other parameters .* than when this run began"):
            pretrain(config, tmp_path / "run")
    finally:
        shutil.rmtree(root / "wide" / "checkpoints")
        (root / "wide" / "before").rename(root / "wide" / "checkpoints")
    fewer = config | {"objective": config["objective"] | {"teachers": ["init_from"]}}
    with pytest.raises(
        ValueError, match=r"objective\.teachers: the run has \[.*wide:0'\], you gave \[.*small:0'"
    ) as error:
        pretrain(fewer, tmp_path / "run")
    assert "Give the former, even if they have moved" in str(error.value)
    assert "teacher_models" not in str(error.value)  # pages of settings that say nothing more


def test_a_run_without_a_checkpoint_needs_its_teachers(trained, tmp_path):
    """It was killed before its first one, and a teacher that trains on has deleted its own meanwhile."""
    config, run, root = trained
    (tmp_path / "run").mkdir()
    shutil.copy(run / "config.json", tmp_path / "run")
    (root / "wide" / "checkpoints" / "0").rename(root / "wide" / "checkpoints" / "9")
    try:
        message = r"of step 0, found those of \[9\]\. This run has no checkpoint and needs its teachers"
        with pytest.raises(FileNotFoundError, match=message):
            pretrain(config, tmp_path / "run")
    finally:
        (root / "wide" / "checkpoints" / "9").rename(root / "wide" / "checkpoints" / "0")


def test_no_checkpoint_is_removed_while_the_beginning_lacks_a_teacher(one_device, trained, tmp_path):
    """A rollback to the first step was recorded, and the process killed before it removed a checkpoint."""
    config, run, root = trained
    shutil.copytree(run, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "4")
    rollback = {"step": 3, "to": 0, "because": ""}
    (tmp_path / "run" / "rollbacks.json").write_text(json.dumps([rollback]))
    hidden = root.rename(root.with_name("hidden"))
    try:
        with pytest.raises(FileNotFoundError, match=r"small: .*Nothing was removed: .* of steps 2\."):
            pretrain(config, tmp_path / "run")
    finally:
        hidden.rename(root)
    assert checkpoints(tmp_path / "run") == [2]


@pytest.mark.parametrize(
    ("teachers", "changes", "message"),
    [
        ([], {}, r"config\.objective\.teachers: got none, expected the directories"),
        (["{root}/gone"], {}, r"config\.objective\.teachers: .*gone: expected a run directory"),
        (
            ["{small}:7"],
            {},
            r"config\.objective\.teachers: .*expected a checkpoint of step 7, found those of \[0\]",
        ),
        (
            ["{electra}"],
            {},
            r"electra:0 was trained with objective 'electra', expected .* the models of 'mlm'",
        ),
        (["{small}"], {"name": "rtd_distillation"}, r"objective 'mlm', expected .* the models of 'electra'"),
        (["{small}", "{small}:0"], {}, r"got .*small:0 twice"),
        (["{root}/new"], {}, r"got .*new, the directory of this run itself"),
        (["init_from"], {}, r"got 'init_from', .* but config\.checkpoint\.init_from is ''"),
        (["{short}"], {}, r"short:0 has 31 positions, expected at least the row length 32"),
        (["{words}"], {}, r"config\.model\.vocab_size: got 128, expected 136, that of the teacher .*words:0"),
        ([7], {}, r"config\.objective\.teachers: got \[7\], expected the directories of one or more"),
    ],
    ids=[
        "none",
        "missing",
        "no such step",
        "another family",
        "another family for a discriminator",
        "twice",
        "itself",
        "no start",
        "short rows",
        "another vocabulary",
        "no text",
    ],
)
def test_teachers_that_do_not_fit_are_refused(teachers, changes, message, runs, data, tmp_path):
    names = [one.format(root=tmp_path, **runs) if isinstance(one, str) else one for one in teachers]
    config = make_config(data, names)
    if changes:
        config["objective"] = own_settings(config["objective"] | changes)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        pretrain(config, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_teachers_with_another_tokenizer_are_refused(runs, data, tmp_path):
    config = make_config(data, [str(runs["small"])])
    config["data"]["datasets"] = [str(data / "other")]
    with pytest.raises(ValueError, match=r"small:0 was trained with another tokenizer"):
        pretrain(config, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_plan_names_the_step_too(runs, data, monkeypatch, tmp_path):
    monkeypatch.chdir(runs["small"].parent)
    config = with_teacher_models(make_config(data, "small,wide"))
    assert config["objective"]["teachers"] == tuple(f"{runs[name]}:0" for name in ("small", "wide"))
    electra = tiny_export.make_config(tiny_export.electra_model(), data)
    assert with_teacher_models(electra) is electra
