"""Rollbacks in real processes: killed by SIGKILL around them, and two processes that agree on them."""

import json
import signal
import socket
import subprocess

import numpy as np
import pytest

from support import poisoned, tiny_run
from support.forked_process import ForkedProcess
from support.poisoned import arrays, configuration, poison
from support.run_records import comparable

# Back to the start, to a checkpoint, and to a step between two: from step 6 to 2, from 9 to 5, from 11 to 7.
FACTORS = {5: float("inf"), 12: float("inf"), 18: 1e6}
CHANGES = {"trouble__on_nonfinite": "rollback", "trouble__on_spike": "rollback"}
NUM_STEPS = poisoned.CHANGES["train.num_steps"]


def command(workdir, data, die=None, arguments=()):
    """The words behind "python -m" of a run that meets trouble; `die` as "DIE" of poisoned.py."""
    changes = {key.replace(".", "__"): value for key, value in poisoned.CHANGES.items()} | CHANGES
    words = tiny_run.command(workdir, data, arguments=arguments, **changes)[3:]
    factors = poison(data, FACTORS) | ({"DIE": die} if die else {})
    return ["support.poisoned", json.dumps(factors), *words]


def run(commands, environment):
    """(exit codes, output of all) of processes that run together."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    processes = [ForkedProcess(words, environment, stdin=subprocess.DEVNULL, **pipes) for words in commands]
    outputs = [process.communicate(timeout=400)[0] for process in processes]
    return [process.returncode for process in processes], "\n".join(outputs)


@pytest.fixture(scope="module")
def whole(data, environment, tmp_path_factory):
    """(run directory, configuration) of a run in one process that nothing interrupted."""
    workdir = tmp_path_factory.mktemp("runs") / "whole"
    codes, output = run([command(workdir, data)], environment)
    assert codes == [0], output
    return workdir, configuration(data, **CHANGES)


def assert_same(workdir, other, config, **tolerance):
    ours, expected = (arrays(config, one, NUM_STEPS) for one in (workdir, other))
    for name, value in expected.items():
        if tolerance:
            np.testing.assert_allclose(ours[name], value, err_msg=name, **tolerance)
        else:
            np.testing.assert_array_equal(ours[name], value, err_msg=name)
    lists = [json.loads((one / "rollbacks.json").read_text()) for one in (workdir, other)]
    assert lists[0] == lists[1]
    assert [(one["step"], one["to"]) for one in lists[0]] == [(6, 2), (9, 5), (11, 7)]


@pytest.mark.slow
def test_killed_around_three_rollbacks_and_resumed_equals_uninterrupted(whole, data, environment, tmp_path):
    for die in (["record_rollback", 1], ["remove", 1], ["save", 2], ["record_rollback", 1], ["save", 1]):
        codes, output = run([command(tmp_path / "run", data, die)], environment)
        assert codes == [-signal.SIGKILL], output
    codes, output = run([command(tmp_path / "run", data)], environment)
    assert codes == [0], output
    assert_same(tmp_path / "run", whole[0], whole[1])
    assert comparable(tmp_path / "run") == comparable(whole[0])


@pytest.mark.slow
def test_two_processes_roll_back_together_also_when_one_is_killed(whole, data, environment, tmp_path):
    def both(die=None):
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        flags = [f"--coordinator=localhost:{port}", "--num_processes=2"]
        return [command(tmp_path / "run", data, die, [*flags, f"--process_id={index}"]) for index in range(2)]

    codes, output = run(both(["record_rollback", 1]), environment)
    assert codes[0] == -signal.SIGKILL and codes[1] != 0, output
    codes, output = run(both(), environment)
    assert codes == [0, 0], output
    assert_same(tmp_path / "run", whole[0], whole[1], rtol=1e-5, atol=1e-6)
