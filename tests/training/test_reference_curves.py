"""Reference curves: bands of several runs, and the recipe that a run is compared with."""

import json
import shlex

import numpy as np
import pytest

from configs import debug
from data_pipelines.json_files import write_json
from electra_jax.comparison.reference_curves import REFERENCE_FILE, write_reference
from electra_jax.configuration.resolve import resolve
from electra_jax.reports.run_view import read_run
from electra_jax.training.reference import FOLDER, METRICS, find_reference, make_curves

LENGTH, BATCH, SEEDS = 64, 32, (0, 1, 2)
DATA = ["abc"]


def describe(model="electra", **changes):
    config = debug.get_config(f"model={model}")
    config.update_from_flattened_dict({key.replace("__", "."): value for key, value in changes.items()})
    return {"config": resolve(config.to_dict()).values, "data": DATA}


def rows_of(seed):
    training = [{"step": step, "loss": 9.0 - step / 100 + seed, "rtd_auc": 0.5} for step in (50, 100, 150)]
    return [*training, {"step": 100, "eval/mlm_loss": 5.0 + seed / 8, "eval/rtd_auc": None if seed else 0.6}]


@pytest.fixture
def written(tmp_path):
    """The folder with the file made from three runs."""
    runs = {}
    for seed in SEEDS:
        runs[seed] = tmp_path / f"seed_{seed}"
        runs[seed].mkdir()
        write_json(runs[seed] / "config.json", describe(train__seed=seed, data__seed=seed))
        rows = rows_of(seed)
        (runs[seed] / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        session = {
            "started": f"2026-01-0{1 + seed}T00:00:00Z",
            "command": ["python", "-m", "electra_jax.compare", "--config=configs/debug.py:model=electra"],
            "devices": "1 × cpu",
            "versions": {"jax": "0.10.2"},
        }
        (runs[seed] / "sessions.jsonl").write_text(json.dumps(session) + "\n")
    folder = tmp_path / "written"
    folder.mkdir()
    assert write_reference(runs, folder) == folder / REFERENCE_FILE
    return folder


def test_the_command_has_the_flags_that_decide_the_curves(written, tmp_path):
    denoisers = "((4, 0.15, 1, False), (1, 0.5, 3, False))"
    words = ["--config", "configs/debug.py:model=electra", "--workdir", "my runs", "--seeds", "1"]
    words += ["--config.optimizer.learning_rate=1e-3", "--config.train.num_steps", "500"]
    words += [f"--config.objective.denoisers={denoisers}", "-config.eval.max_batches=4"]
    words += ["--config.data.datasets=my text", "--config.log.trackers=wandb", "--config.mesh.data", "-1"]
    words += ["--config.checkpoint.every=9", "--config.train.seed=8", "--noconfig.optimizer.bias_correction"]
    session = json.loads((tmp_path / "seed_0" / "sessions.jsonl").read_text())
    session["command"] = ["python", "-m", "electra_jax.compare", "--suite=reference", *words]
    (tmp_path / "seed_0" / "sessions.jsonl").write_text(json.dumps(session) + "\n")
    path = write_reference({0: tmp_path / "seed_0"}, written)
    contents = json.loads(path.read_text())
    assert contents["recipe"] == "configs/debug.py:model=electra"
    assert shlex.split(contents["command"]) == [
        *("python", "-m", "electra_jax.compare", "--suite=reference"),
        "--config=configs/debug.py:model=electra",
        "--config.optimizer.learning_rate=1e-3",
        "--config.train.num_steps=500",
        f"--config.objective.denoisers={denoisers}",
        "-config.eval.max_batches=4",
        "--noconfig.optimizer.bias_correction",
        *("--workdir=DIR", "--config.data.datasets=DIR", "--seeds=1"),
    ]


@pytest.mark.parametrize("text", ["", "{}\n", '{"started": "x"}\n'])
def test_a_run_without_a_record_of_its_start_is_named(text, tmp_path):
    write_json(tmp_path / "config.json", describe())
    (tmp_path / "sessions.jsonl").write_text(text)
    with pytest.raises(
        ValueError, match=r"sessions\.jsonl: its last line lacks started, .*, or there is none"
    ):
        write_reference({0: tmp_path}, tmp_path)


def test_a_band_is_the_median_and_the_range_at_the_same_tokens():
    curves = make_curves([rows_of(seed) for seed in SEEDS], BATCH * LENGTH)
    assert curves["loss"] == {
        "steps": [50, 100, 150],
        "tokens": [102_400, 204_800, 307_200],
        "median": [9.5, 9.0, 8.5],
        "low": [8.5, 8.0, 7.5],
        "high": [10.5, 10.0, 9.5],
    }
    assert curves["eval/mlm_loss"]["median"] == [5.125]
    assert curves["eval/rtd_auc"]["median"] == [None]  # not finite in two runs
    assert set(curves) <= set(METRICS)


def test_only_steps_of_all_runs_count():
    runs = [rows_of(seed) for seed in SEEDS]
    runs[1] = runs[1][:2]
    curves = make_curves(runs, 1)
    assert curves["loss"]["steps"] == [50, 100] and "eval/mlm_loss" not in curves


def test_a_run_finds_the_curves_of_its_recipe(written):
    reference = find_reference(describe(train__seed=7, log__every=10, health__min_auc=0.6), written)
    assert (reference.recipe, reference.seeds) == ("configs/debug.py:model=electra", [0, 1, 2])
    assert reference.differences == []
    assert reference.curves["loss"].median == [9.5, 9.0, 8.5]
    assert reference.command.startswith("python -m electra_jax.compare --suite=reference --config=configs/")


def test_other_settings_and_other_text_are_listed(written):
    description = describe(optimizer__learning_rate=1e-3, train__num_steps=500)
    reference = find_reference(description | {"data": ["def"]}, written)
    assert sorted(line.partition(":")[0] for line in reference.differences) == [
        "data",
        "optimizer.learning_rate",
        "train.num_steps",
    ]


def test_another_evaluation_is_listed_as_its_curves_are_of_other_rows(written):
    changes = {"eval__max_batches": 3, "eval__seed": 9, "eval__every": 7, "eval__batch_size": 8}
    reference = find_reference(describe(**changes), written)
    assert sorted(line.partition(":")[0] for line in reference.differences) == [
        "eval.batch_size",
        "eval.max_batches",
        "eval.seed",
    ]


@pytest.mark.parametrize("changes", [{"model": "mcl"}, {"model__hidden_dropout": 0.1}])
def test_another_method_or_model_has_no_curves(changes, written):
    assert find_reference(describe(**changes), written) is None


def test_runs_with_stages_have_no_curves(written, tmp_path):
    path = tmp_path / "seed_0" / "config.json"
    description = json.loads(path.read_text())
    description["config"]["stages"] = [[10, {"train.batch_size": 64}]]
    write_json(path, description)
    with pytest.raises(ValueError, match="got a run with stages"):
        write_reference({0: tmp_path / "seed_0"}, written)


def test_a_report_has_the_curves_of_the_recipe_of_its_run(tmp_path):
    contents = json.loads((FOLDER / "debug_electra.json").read_text(encoding="utf-8"))
    config = describe(data__sequence_length=LENGTH, model__vocab_size=1024)["config"]
    write_json(tmp_path / "config.json", {"config": config, "data": contents["corpus"]["fingerprints"]})
    assert read_run(str(tmp_path)).reference.differences == []
    write_json(tmp_path / "config.json", {"config": config, "data": 3})
    assert len(read_run(str(tmp_path)).reference.differences) == 1  # the data


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.json")), ids=lambda path: path.stem)
def test_the_shipped_curves_belong_to_their_recipes(path):
    contents = json.loads(path.read_text(encoding="utf-8"))
    model = contents["recipe"].partition("model=")[2]
    config = describe(model)["config"]
    config = config | {"model": config["model"] | {"vocab_size": contents["settings"]["model.vocab_size"]}}
    config |= {"data": config["data"] | {"sequence_length": LENGTH}}
    reference = find_reference({"config": config, "data": contents["corpus"]["fingerprints"]})
    assert reference.recipe == contents["recipe"] and reference.differences == []
    assert len(reference.seeds) >= 3
    for metric, band in reference.curves.items():
        assert len({len(column) for column in band}) == 1, metric
        low, median, high = (np.array(column, float) for column in (band.low, band.median, band.high))
        assert (low <= median).all() and (median <= high).all(), metric
        assert band.tokens == [step * contents["tokens_per_step"] for step in band.steps]
    held_out = reference.curves["eval/mlm_loss"].median
    assert held_out[-1] < held_out[0] - 0.5  # it has learnt
