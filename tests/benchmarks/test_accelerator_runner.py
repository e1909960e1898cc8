"""The check of an accelerator runs its parts in processes of their own: limits, failures, resumption."""

import json
import os
import sys
import time
from pathlib import Path

import pytest

from electra_jax.benchmarks.accelerator.check import check_accelerator
from electra_jax.benchmarks.accelerator.parts import PARTS, Job, Part, find_parts, log_path, result_path
from electra_jax.benchmarks.accelerator.process import run_recorded
from electra_jax.benchmarks.accelerator.results import (
    FAILED,
    NOT_RUN,
    PASSED,
    TIME_LIMIT,
    CannotRunError,
    Recorder,
    read_result,
)
from electra_jax.benchmarks.accelerator.runner import (
    Settings,
    environment,
    is_failure,
    part_command,
    run_one,
    run_parts,
)
from support import accelerator_results

PASSING = f"""
recorder.add(**{accelerator_results.DEVICE!r})
recorder.finish("passed")
"""
WRITING = """
import pathlib, sys
from electra_jax.benchmarks.accelerator.results import Recorder
recorder = Recorder(pathlib.Path(sys.argv[1]), sys.argv[2])
"""


def part(name, seconds=20.0, **more):
    return Part(name, f"title of {name}", "no.module", seconds, seconds, **more)


def commands(directory, **programs):
    """A maker of commands: the part NAME runs the program of that name, after a recorder is made for it."""

    def make(part, settings):
        path = str(result_path(directory, part.name))
        return [sys.executable, "-c", WRITING + programs.get(part.name, PASSING), path, part.name]

    return make


def run(directory, parts, programs, **settings):
    return run_parts(parts, Settings(directory, **settings), commands(directory, **programs))


HANGING = """
import subprocess, sys, time
recorder.add(half=1)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print("child", child.pid, flush=True)
time.sleep(60)
"""


def test_a_part_that_hangs_is_killed_with_its_children_and_the_next_one_runs(tmp_path, capsys):
    parts = [part("device"), part("hangs"), part("after")]
    began = time.perf_counter()
    results = run(tmp_path, parts, {"hangs": HANGING}, limit_factor=0.2)
    assert time.perf_counter() - began < 40
    assert [result.status for result in results] == [PASSED, TIME_LIMIT, PASSED]
    assert results[1].figures == {"half": 1}, "what it had recorded is kept"
    child = int(log_path(tmp_path, "hangs").read_text().split()[-1])
    time.sleep(0.2)
    # A killed child may stay as a zombie where process 1 does not collect it.
    status = Path(f"/proc/{child}/stat")
    assert not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z"
    printed = capsys.readouterr().out
    assert "hangs: time limit" in printed and "next: after (title of after)" in printed
    failures = [is_failure(*pair) for pair in zip(parts, results, strict=True)]
    assert failures == [False, True, False]


STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
time.sleep(60)
"""


def test_a_part_that_ignores_sigterm_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr("electra_jax.benchmarks.accelerator.runner.GRACE_SECONDS", 0.2)
    (tmp_path / "parts").mkdir()
    one = part("stubborn")
    began = time.perf_counter()
    result = run_one(one, commands(tmp_path, stubborn=STUBBORN)(one, None), tmp_path, 3.0)
    assert result.status == TIME_LIMIT and time.perf_counter() - began < 15


@pytest.mark.parametrize(
    ("program", "note"),
    [
        ("raise SystemExit(3)", "ended with exit code 3"),
        ("import os; os.abort()", "ended with exit code -6"),
        ("print('what it printed last'); raise SystemExit(1)", "what it printed last"),
        ("open(sys.argv[1], 'w').write('{'); raise SystemExit(1)", "ended with exit code 1"),
    ],
)
def test_a_part_that_crashes_has_failed_and_the_next_one_runs(tmp_path, program, note):
    results = run(tmp_path, [part("device"), part("crashes"), part("after")], {"crashes": program})
    assert [result.status for result in results] == [PASSED, FAILED, PASSED]
    assert note in results[1].note


def test_a_second_start_repeats_only_what_has_not_passed_under_the_same_conditions(tmp_path):
    counting = "open(sys.argv[1] + '.count', 'a').write('x')\n"
    failing = counting + "recorder.check('sum', False, got=3, expected=4); recorder.finish('failed')"
    parts = [part("device"), part("good"), part("bad")]
    programs = {"device": counting + PASSING, "good": counting + PASSING, "bad": failing}
    count = lambda name: len((tmp_path / "parts" / f"{name}.json.count").read_text())
    counts = lambda: [count(one.name) for one in parts]
    run(tmp_path, parts, programs)
    run(tmp_path, parts, programs)
    assert counts() == [2, 1, 2]
    run(tmp_path, parts, programs, again=True)
    assert counts() == [3, 2, 3]
    other = {"device": programs["device"].replace("0123abc", "4567def")}
    run(tmp_path, parts, programs | other)
    assert counts() == [4, 3, 4]
    run(tmp_path, parts, programs | other, data="other rows")
    assert counts() == [5, 4, 5]


def test_a_part_may_use_what_those_before_it_left(tmp_path):
    slow = "import time; time.sleep(3)\n" + PASSING
    parts = [part("device", 20.0), part("slow", 0.5)]
    assert [result.status for result in run(tmp_path, parts, {"slow": slow})] == [PASSED, PASSED]


def test_an_accelerator_leaves_no_more_than_its_own_limit(tmp_path):
    """Until the first part has ended, nothing tells whether the device is a CPU, whose limits are longer."""
    parts = [part("device", 0.0)._replace(seconds_on_cpu=20.0), part("slow", 0.5)]
    programs = {"slow": "import time; time.sleep(60)"}
    assert accelerator_results.DEVICE["platform"] != "cpu"
    assert [result.status for result in run(tmp_path, parts, programs)] == [PASSED, TIME_LIMIT]


def test_limits_on_an_accelerator_add_up_to_eight_minutes():
    assert sum(part.seconds for part in PARTS) <= 480
    names = [part.name for part in PARTS]
    assert len(set(names)) == len(names) and names[0] == "device"


def test_chosen_parts_come_after_the_device_and_a_wrong_name_is_an_error():
    assert [part.name for part in find_parts(["kernels"])] == ["device", "kernels"]
    assert find_parts([]) == list(PARTS)
    with pytest.raises(ValueError, match="--parts: got kernel, expected some of device, learning"):
        find_parts(["kernel"])


@pytest.mark.parametrize(
    ("ending", "status", "passed"),
    [
        (lambda job: job.recorder.check("sum", True, got=4, expected=4), PASSED, True),
        (lambda job: job.recorder.check("sum", False, got=3, expected=4), FAILED, False),
        (lambda job: {}["missing"], FAILED, False),
        (lambda job: (_ for _ in ()).throw(CannotRunError("torch is missing")), NOT_RUN, True),
    ],
)
def test_how_a_part_ends_is_recorded(tmp_path, monkeypatch, ending, status, passed):
    module = type(sys)("a_part_of_a_test")
    module.run_part = ending
    monkeypatch.setitem(sys.modules, module.__name__, module)
    path = tmp_path / "a.json"
    job = Job(part("a")._replace(module=module.__name__), tmp_path, "", Recorder(path, "a"))
    assert run_recorded(job) is passed
    assert read_result(path).status == status


def test_parts_get_the_checkout_and_a_cache_and_keep_what_the_user_set(tmp_path):
    found = environment(tmp_path, {"PYTHONPATH": "a", "XLA_PYTHON_CLIENT_PREALLOCATE": "true"})
    assert found["PYTHONPATH"].endswith(f"{os.pathsep}a") and "" not in found["PYTHONPATH"].split(os.pathsep)
    assert found["XLA_PYTHON_CLIENT_PREALLOCATE"] == "true"
    assert found["JAX_COMPILATION_CACHE_DIR"] == str(tmp_path / "compiled")
    assert not [name for name in found if "MEM_FRACTION" in name]  # prepare_process knows what the user set
    command = part_command(PARTS[0], Settings(tmp_path))
    assert command[0] == sys.executable and "--part=device" in command


def test_the_check_ends_with_an_error_that_names_what_failed(tmp_path, monkeypatch):
    failing = "recorder.check('sum', False, got=3, expected=4)\nrecorder.finish('failed')"
    monkeypatch.setattr(
        "electra_jax.benchmarks.accelerator.check.run_parts",
        lambda parts, settings: run_parts(parts, settings, commands(tmp_path, kernels=failing)),
    )
    with pytest.raises(ValueError, match="1 of 3 parts failed: kernels"):
        check_accelerator(["kernels", "torch"], Settings(tmp_path))
    entries = json.loads((tmp_path / "report.json").read_text())["parts"]
    assert [entry["status"] for entry in entries] == [PASSED, FAILED, PASSED]
    assert "sum: got 3, expected 4" in (tmp_path / "report.md").read_text()
