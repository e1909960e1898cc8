"""sessions.jsonl: each start has a line, and a run that resumes under other versions says so."""

import json
import platform

import jax
import pytest

from electra_jax.runs.doctor_checks import check_workdir
from electra_jax.runs.provenance import installed_versions, read_sessions, record_start

HERE = platform.python_version()


@pytest.fixture
def workdir(tmp_path):
    """A run directory with one session."""
    record_start(tmp_path, 0)
    return tmp_path


def pretend(workdir, versions=None, **changes):
    """Make the last session one of other versions; None: not installed."""
    *before, last = read_sessions(workdir)
    versions = last["versions"] | (versions or {})
    last |= {"versions": {name: value for name, value in versions.items() if value}} | changes
    (workdir / "sessions.jsonl").write_text("".join(json.dumps(one) + "\n" for one in (*before, last)))


def test_a_session_has_python_and_the_libraries_that_compute(workdir):
    (session,) = read_sessions(workdir)
    assert session["start_step"] == 0 and session["devices"] == "8 × cpu"
    assert session["versions"] == installed_versions()
    assert session["versions"]["python"] == HERE and session["versions"]["jax"] == jax.__version__
    assert {"jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy"} < session["versions"].keys()


def test_the_same_versions_are_not_mentioned(workdir, capsys):
    record_start(workdir, 10)
    assert capsys.readouterr().err == "" and "changed" not in read_sessions(workdir)[-1]
    assert check_workdir(workdir).text == str(workdir)


def test_other_versions_are_printed_and_recorded(workdir, capsys):
    commit = read_sessions(workdir)[0]["commit"]
    pretend(
        workdir, {"jax": "0.9.1", "python": "3.10.4", "libtpu": "0.0.17"}, commit="0123456789abcdef+changes"
    )
    changes = (
        f"jax 0.9.1 → {jax.__version__}, libtpu 0.0.17 → none, python 3.10.4 → {HERE}, "
        f"commit 0123456789+changes → {commit[:10] + commit[40:]}"
    )
    assert check_workdir(workdir).text == f"{workdir}; changed since its last session: {changes}"
    assert check_workdir(workdir).problem == ""
    record_start(workdir, 10)
    assert capsys.readouterr().err == (
        f"{workdir} resumes under other versions than in its last session: {changes}. Losses may differ from "
        "those of the old versions by rounding.\n"
    )
    changed = read_sessions(workdir)[-1]["changed"]
    assert changed["jax"] == ["0.9.1", jax.__version__] and changed["libtpu"] == ["0.0.17", None]
    record_start(workdir, 20)  # as the session before
    assert capsys.readouterr().err == ""


def test_a_start_from_the_beginning_continues_nothing(workdir, capsys):
    pretend(workdir, {"jax": "0.9.1"})
    record_start(workdir, 0)
    assert capsys.readouterr().err == ""


def test_sessions_of_older_code_recorded_four_libraries(workdir, capsys):
    four = {name: installed_versions()[name] for name in ("jax", "flax", "optax", "orbax-checkpoint")}
    pretend(workdir, dict.fromkeys(installed_versions()) | four)
    record_start(workdir, 10)
    assert capsys.readouterr().err == ""
    pretend(workdir, dict.fromkeys(installed_versions()) | four | {"flax": "0.10.0"})
    record_start(workdir, 10)
    assert f": flax 0.10.0 → {four['flax']}. Losses" in capsys.readouterr().err


def test_a_line_that_a_crash_left_incomplete_is_dropped(workdir, capsys):
    with (workdir / "sessions.jsonl").open("a") as file:
        file.write('{"started": "2026-')
    record_start(workdir, 10)
    assert [session["start_step"] for session in read_sessions(workdir)] == [0, 10]
    assert all(map(json.loads, (workdir / "sessions.jsonl").read_text().splitlines()))


@pytest.mark.parametrize(
    "changes",
    [
        {"start_step": "10"},
        {"log_every": []},
        {"num_steps": 20},
        {"num_steps": [20]},
        {"num_steps": [20, 30, 40]},
        {"num_steps": [20, "30"]},
        {"versions": ["jax"]},
        {"versions": {"jax": 1}},
        {"command": "python"},
        {"devices": ["cpu"]},
        {"commit": 7},
    ],
)
def test_an_edited_line_is_named(changes, workdir):
    (session,) = read_sessions(workdir)
    rows = [session, session | changes]
    (workdir / "sessions.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    with pytest.raises(ValueError, match=r"sessions\.jsonl, line 2: got .* Repair the line, or put it back"):
        record_start(workdir, 10)


def test_a_line_with_less_than_today_is_read(workdir, capsys):
    (workdir / "sessions.jsonl").write_text('{"start_step": 5}\n{}\n')
    record_start(workdir, 10)
    assert [one.get("start_step") for one in read_sessions(workdir)] == [5, None, 10]
    assert "under other versions" in capsys.readouterr().err
