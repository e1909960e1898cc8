"""A run as a report finds it: what is refused, its recipe, its command and its reference curves."""

import json

import pytest

from electra_jax.reports import recipe_difference
from electra_jax.reports.run_view import read_run
from electra_jax.runs.bucket_runs import BUCKET_FILE
from support.report_runs import make_run


def test_what_is_no_pre_training_run_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    for place in (tmp_path / "none", tmp_path / "empty"):
        with pytest.raises(FileNotFoundError, match=r"expected a directory of electra_jax\.pretrain"):
            read_run(str(place))
    for name, found, message in (
        ("task", {"config": {"task": {}}}, "a fine-tuning"),
        ("export", {"model_type": "electra"}, "config.json of something else"),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(found))
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            read_run(str(tmp_path / name))


def test_a_recipe_of_anybody_is_never_run(tmp_path):
    path = make_run(tmp_path / "run")
    evil = tmp_path / "evil.py"
    evil.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\ndef get_config(arg=None): return None\n")
    for recipe in (str(evil), f"configs/../../../../../../../{evil}", "configs/none.py"):
        session = {"command": [f"--config={recipe}"], "start_step": 0}
        (path / "sessions.jsonl").write_text(json.dumps(session) + "\n")
        run = read_run(str(path))
        assert run.recipe.problem and run.recipe.settings == []
    assert not (tmp_path / "ran").exists()


def test_a_recipe_that_names_a_bucket_is_not_loaded(tmp_path, monkeypatch):
    path, loaded = make_run(tmp_path / "run"), []
    monkeypatch.setattr(recipe_difference, "load_config", loaded.append)
    session = {"command": ["--config=configs/continued.py:run=gs://anybody/run"], "start_step": 0}
    (path / "sessions.jsonl").write_text(json.dumps(session) + "\n")
    assert "reads a bucket" in read_run(str(path)).recipe.problem
    assert not loaded


@pytest.mark.parametrize("words", [["--config=configs/debug.py"], ["--config", "configs/debug.py"]])
def test_the_recipe_and_the_flags_of_a_command_are_found(words, tmp_path):
    path = make_run(tmp_path / "run")
    session = {"command": ["python", "-m", "x", *words, "-config.train.num_steps", "40"], "start_step": 0}
    (path / "sessions.jsonl").write_text(json.dumps(session) + "\n")
    recipe = read_run(str(path)).recipe
    assert (recipe.recipe, recipe.problem) == ("configs/debug.py", "")
    assert [one.key for one in recipe.settings if one.is_given] == ["train.num_steps"]


def test_of_a_copy_the_time_of_the_last_metrics_is_not_known(tmp_path):
    path = make_run(tmp_path / "run")
    assert read_run(str(path)).written
    (path / BUCKET_FILE).write_text("s3://bucket/run")
    assert read_run(str(path)).written == ""


@pytest.mark.parametrize(
    ("changes", "tokens", "num_problems"),
    [({}, 16, 0), ({"stages": [[20, {"train.batch_size": 4}]]}, None, 0), ({"batch_size": "2"}, None, 1)],
    ids=["one size", "stages", "damaged"],
)
def test_tokens_of_a_step_are_known_if_all_steps_have_as_many(changes, tokens, num_problems, tmp_path):
    run = read_run(str(make_run(tmp_path / "run", **changes)))
    about = [problem for problem in run.problems if "batch_size" in problem]
    assert (run.tokens_per_step, len(about)) == (tokens, num_problems)


def test_the_reference_curves_are_looked_up_by_configuration_and_data(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr("electra_jax.reports.run_view.find_reference", lambda found: asked.append(found))
    assert read_run(str(make_run(tmp_path / "run"))).reference is None
    [found] = asked
    assert found["data"] == ["x"] and found["config"]["train"]["num_steps"] == 40

    def fail(found):
        raise ValueError("damaged")

    monkeypatch.setattr("electra_jax.reports.run_view.find_reference", fail)
    assert any(
        "reference curves could not be read" in one for one in read_run(str(tmp_path / "run")).problems
    )
