"""A run whose newest checkpoint is damaged falls back to an older one; a run with other settings than its
checkpoints does not start."""

import json
import re
import shutil

import pytest

from electra_jax.configuration.flags import load_config
from electra_jax.runs.pretraining import pretrain
from electra_jax.runs.provenance import read_sessions
from electra_jax.runs.trained import load_run
from electra_jax.training.events import read_events
from electra_jax.training.writers import METRICS_FILE
from support.damage import flip_bit, largest_file
from support.run_records import checkpoints, comparable
from support.tiny_run import NUM_STEPS, start, values

BEFORE, LAST = NUM_STEPS - 10, NUM_STEPS  # steps of the two checkpoints

# One device, as the complete run had.
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_device")]


@pytest.fixture
def run(finished, tmp_path):
    """A copy of a complete run."""
    return shutil.copytree(finished[0], tmp_path / "run")


@pytest.fixture
def resume(run, data):
    """A function that gives the run's command again."""

    def resume(**changes):
        config = load_config("configs/debug.py")
        given = values(data, **changes)
        config.update_from_flattened_dict(given | {"data.datasets": (given["data.datasets"],)})
        return pretrain(config.to_dict(), run)

    return resume


def names(run):
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def edit_config(run, section, **changes):
    path = run / "config.json"
    found = json.loads(path.read_text())
    found["config"][section] |= changes
    path.write_text(json.dumps(found))


def empty(checkpoint):
    shutil.rmtree(checkpoint)
    checkpoint.mkdir()


def swap(checkpoint):
    """Another checkpoint under this name."""
    shutil.rmtree(checkpoint)
    shutil.copytree(checkpoint.with_name(str(BEFORE)), checkpoint)


DAMAGES = {
    r"state/ocdbt\S* has other bytes than were written": lambda path: flip_bit(
        largest_file(path.parent.parent, LAST)
    ),
    "parts of it are missing": empty,
    f"it is the checkpoint of step {BEFORE}, under another name": swap,
}


@pytest.mark.parametrize("reason", DAMAGES)
def test_a_run_falls_back_to_its_newest_whole_checkpoint(
    reason, run, resume, finished, data, environment, capsys
):
    DAMAGES[reason](run / "checkpoints" / str(LAST))
    # In a process with one device, as before, so that rows are the same bit for bit.
    outcome = start(run, data, environment)
    assert outcome.returncode == 0, outcome.stderr
    err = outcome.stderr
    assert err.count("falls back") == 1 and f"is now checkpoints/{LAST}.damaged. Nothing was deleted." in err
    assert comparable(run) == comparable(finished[0])
    assert names(run) == [str(BEFORE), str(LAST), f"{LAST}.damaged"]
    [event] = read_events(run)
    assert event["kind"] == "fell_back" and event["step"] == BEFORE == read_sessions(run)[-1]["start_step"]
    [aside] = event["checkpoints"]
    assert aside["step"] == LAST and aside["now"] == f"{LAST}.damaged"
    assert read_sessions(run)[-1]["fell_back"] == [aside]
    assert re.match(reason, aside["reason"]), aside
    resume()
    assert "the run is complete" in capsys.readouterr().err and len(read_events(run)) == 1


def test_without_a_whole_checkpoint_a_run_does_not_begin_again(run, resume):
    for step in (BEFORE, LAST):
        flip_bit(largest_file(run, step))
    rows = (run / METRICS_FILE).read_bytes()
    with pytest.raises(
        OSError, match=rf"no checkpoint can be resumed from:\n  step {LAST}: .*\n  step {BEFORE}"
    ):
        resume()
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(
        FileNotFoundError, match=f"a run that had done {NUM_STEPS} steps. Copy its checkpoints"
    ):
        resume()
    assert (run / METRICS_FILE).read_bytes() == rows and not read_events(run)


@pytest.mark.parametrize("is_lost", [True, False])
@pytest.mark.parametrize(
    ("section", "change", "line"),
    [
        ("optimizer", {"learning_rate": 0.5}, "learning_rate: the run has 0.002, you gave 0.5"),
        ("objective", {"disc_weight": 1.0}, "disc_weight: the run has"),
        ("data", {"seed": 7}, "seed: the run has 0, you gave 7"),
        ("train", {"num_steps": 70}, "num_steps: the run has 60, you gave 70"),
    ],
)
def test_a_checkpoint_does_not_continue_with_other_settings(section, change, line, is_lost, run, resume):
    if is_lost:
        (run / "config.json").unlink()
    else:
        edit_config(run, section, **change)
    with pytest.raises(ValueError, match=rf"were saved with other settings:\n  config\.{section}\.{line}"):
        resume(**{f"{section}__{key}": value for key, value in change.items()})
    assert checkpoints(run) == [BEFORE, LAST]


def test_a_lost_config_is_written_again(run, resume):
    before = (run / "config.json").read_bytes()
    (run / "config.json").unlink()
    resume()
    assert (run / "config.json").read_bytes() == before and not read_events(run)


@pytest.mark.parametrize("kept", [0, 5])
def test_rows_that_were_lost_are_told(kept, run, resume, capsys):
    shutil.rmtree(run / "checkpoints" / str(LAST))
    path = run / METRICS_FILE
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:kept]))
    resume()
    [event] = read_events(run)
    assert event["kind"] == "rows_lost" and (event["first"], event["last"]) == (4 * kept + 1, BEFORE - 2)
    assert read_sessions(run)[-1]["rows_lost"] == [[4 * kept + 1, BEFORE - 2]]
    assert f"lacks the rows of steps {4 * kept + 1} to {BEFORE - 2}" in capsys.readouterr().err
    assert [row["step"] for row in comparable(run)][-3:] == [LAST - 4, LAST, LAST]


def test_rows_between_others_that_were_lost_are_told_once(run, resume, capsys):
    path = run / METRICS_FILE
    lines = path.read_text().splitlines(keepends=True)
    gone = [line for line in lines if json.loads(line)["step"] in (8, 12, 20) and "eval/" not in line]
    path.write_text("".join(line for line in lines if line not in gone))
    shutil.rmtree(run / "checkpoints" / str(LAST))
    resume()
    [event] = read_events(run)
    assert event["kind"] == "rows_lost" and event["ranges"] == [[5, 12], [17, 20]]
    assert read_sessions(run)[-1]["rows_lost"] == [[5, 12], [17, 20]]
    assert "lacks the rows of steps 5 to 12, 17 to 20, which are done" in capsys.readouterr().err
    shutil.rmtree(run / "checkpoints" / str(LAST))
    resume()
    assert read_events(run) == [event] and "rows_lost" not in read_sessions(run)[-1]


def test_readers_name_a_whole_checkpoint_and_rename_nothing(run):
    flip_bit(largest_file(run, LAST))
    with pytest.raises(OSError, match=rf"{LAST} cannot be used: .* A whole one is {run}:{BEFORE}, of step"):
        load_run(run)
    assert load_run(run, BEFORE).step == BEFORE
    edit_config(run, "model", layer_norm_epsilon=0.5)
    with pytest.raises(ValueError, match=r"config\.json is not that of the checkpoint of step"):
        load_run(run, BEFORE)
    assert names(run) == [str(BEFORE), str(LAST)]
