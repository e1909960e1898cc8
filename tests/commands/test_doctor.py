"""`python -m electra_jax.doctor` finds before a run what would fail in it, on whichever process."""

import re
import shutil
import socket
import subprocess
import sys
import types

import jax
import pytest
from ml_collections import config_dict

from electra_jax.configuration.flags import load_config
from electra_jax.configuration.resolve import resolve
from electra_jax.distributed.sharding import axis_context
from electra_jax.runs.doctor_checks import check_sizes, format_bytes
from electra_jax.runs.doctor_rows import check_rows
from electra_jax.runs.inputs import open_inputs
from electra_jax.runs.only_writer import describe_writer
from electra_jax.training.program import make_program
from support.commands import run_module, start_module
from support.paths import ROOT
from support.small_corpus import replace_rows
from support.tiny_run import command, values


def start(workdir, data, environment, arguments=(), **changes):
    words = command(workdir, data, module="electra_jax.doctor", arguments=arguments, **changes)[2:]
    return start_module(words, environment)


def lines(output):
    return [" ".join(line.split()) for line in output.splitlines()]


def test_all_checks_pass_and_nothing_is_left_behind(data, environment, tmp_path):
    arguments = ["--expect_devices=1", "--change_num_steps", "--read_all"]
    process = start(tmp_path / "new" / "run", data, environment, arguments)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    shown = lines(out)
    assert shown[0] == "ok devices 1 of 1 × cpu" and shown[-1] == "7 checks passed."
    names = ["devices", "same", "run", "data", "checkpoints", "size", "rows"]
    assert [line.split()[1] for line in shown[:-1]] == names
    assert re.fullmatch(r"ok rows all [\d,]+ rows are those that were built", shown[6])
    assert "1 dataset, rows of 32" in shown[3] and "KiB of checkpoints" in shown[5]
    assert list((tmp_path / "new").iterdir()) == []


def test_all_mistakes_are_reported_at_once(data, environment, tmp_path):
    process = start("/proc/run", data, environment, ["--expect_devices=8"], data__sequence_length=64)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 1, err
    assert "--expect_devices: got 1, expected 8" in out
    assert "cannot be written: " in out and "Give a --workdir that this user may write to" in out
    assert "config.data.sequence_length: got 64, but the datasets hold rows of 32" in out
    assert " size " not in out and lines(out)[-1] == "3 of 6 checks failed, 2 were skipped."


@pytest.mark.slow
def test_a_process_with_other_settings_another_disk_and_other_data_is_named(data, environment, tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    processes = [
        start(
            tmp_path / f"disk_{index}" / "run",
            data,
            environment,
            [f"--coordinator=localhost:{port}", "--num_processes=2", f"--process_id={index}"],
            train__seed=index,
            data__datasets=str(data / ("corpus", "other")[index]),
        )
        for index in range(2)
    ]
    outputs = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [1, 1], outputs
    shown = lines(outputs[0][0])
    at = shown.index(next(line for line in shown if line.startswith("wrong same everywhere [process 1]")))
    assert shown[at + 1].startswith('not as on process 0: config.data.datasets (here ["')
    assert shown[at + 1].endswith(
        "), config.train.seed (here 1). Install the same on every host and give the same command."
    )
    assert "ok same everywhere [process 0]" in shown[at - 1]
    assert any(line.startswith("the files of processes [1] are not seen here") for line in shown)
    assert any(line.startswith("the files of processes [0] are not seen here") for line in shown)
    assert shown.count("not the same on every process. Copy the datasets again.") == 2
    assert "same everywhere" not in outputs[1][0]  # process 0 prints for all


def test_a_mesh_that_does_not_divide_the_model(data, environment, tmp_path):
    eight = environment | {
        "XLA_FLAGS": f"{environment['XLA_FLAGS']} --xla_force_host_platform_device_count=8"
    }
    process = start(tmp_path / "run", data, eight, mesh__tensor=8)
    out, _ = process.communicate(timeout=300)
    assert (
        process.returncode == 1
        and "config.mesh does not fit the model" in out
        and lines(out)[-2].startswith("…")
    )


@pytest.mark.slow
def test_a_missing_process_is_reported_and_does_not_hang(data, environment, tmp_path):
    process = start(
        tmp_path / "run",
        data,
        environment,
        ["--coordinator=localhost:1", "--num_processes=2", "--process_id=1", "--timeout=5"],
    )
    _, err = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "No answer in 5 seconds; this process was waiting for: the other processes." in err


@pytest.mark.slow
def test_who_writes_the_run_is_told_and_is_no_problem(data, environment, tmp_path):
    (tmp_path / "run").mkdir()
    holder = subprocess.Popen(
        [sys.executable, "tests/support/hold_lock.py", str(tmp_path / "run"), "90", "10"],
        cwd=ROOT,
        env=environment | {"PYTHONPATH": str(ROOT)},
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert holder.stdout.readline().startswith("held")
        before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
        process = start(tmp_path / "run", data, environment)
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, out + err
        (line,) = [line for line in lines(out) if line.startswith("ok run directory")]
        assert "; another process writes it: " in line and "hold_lock.py" in line
        assert re.search(rf"\(process {holder.pid} on .*, since 20\S+Z\); a start is refused until", line)
        assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before
    finally:
        holder.kill()
        holder.communicate()
    assert describe_writer(tmp_path / "run") == ""  # it has ended


def test_sizes_are_those_of_the_arrays(data, tmp_path, monkeypatch):
    config = config_dict.ConfigDict(load_config("configs/debug.py").to_dict())
    changes = values(data, mesh__data=2, mesh__fsdp=4)
    config.update_from_flattened_dict(
        {key: value for key, value in changes.items() if key != "data.datasets"}
    )
    config.data.datasets = (str(data / "corpus"),)
    inputs = open_inputs(resolve(config.to_dict()), tmp_path / "run")
    with axis_context(inputs.mesh):
        state = make_program(inputs.config, inputs.objective, inputs.mesh).init()
    on_device = sum(array.addressable_shards[0].data.nbytes for array in jax.tree.leaves(state))
    finding = check_sizes(inputs, tmp_path / "run")
    assert finding.problem == "" and f"state {format_bytes(on_device)} a device" in finding.text
    monkeypatch.setattr(shutil, "disk_usage", lambda path: types.SimpleNamespace(free=10))
    finding = check_sizes(inputs, tmp_path / "run")
    assert "10 B free" in finding.text and "the checkpoints do not fit" in finding.problem


def test_room_for_checkpoints_is_what_a_run_keeps_beyond_those_there(data, tmp_path, monkeypatch):
    config = config_dict.ConfigDict(load_config("configs/debug.py").to_dict())
    # A run that looks for spikes has a larger state, whatever it does about them.
    changes = values(
        data, checkpoint__keep=2, checkpoint__every=10, train__num_steps=95, trouble__on_spike="stop"
    )
    config.update_from_flattened_dict(changes | {"data.datasets": (str(data / "corpus"),)})
    inputs, workdir = open_inputs(resolve(config.to_dict()), tmp_path / "run"), tmp_path / "run"
    with axis_context(inputs.mesh):
        arrays = jax.tree.leaves(make_program(inputs.config, inputs.objective, inputs.mesh).abstract_state)
    whole = sum(array.size * array.dtype.itemsize for array in arrays)

    def problem_with(free, **trouble):
        monkeypatch.setattr(shutil, "disk_usage", lambda path: types.SimpleNamespace(free=free))
        changed = inputs.config | {"trouble": inputs.config["trouble"] | trouble}
        return check_sizes(inputs._replace(config=changed), workdir).problem

    assert problem_with(3 * whole) == ""
    assert f"they need {format_bytes(3 * whole)} more" in problem_with(3 * whole - 1)
    returns = {"on_spike": "rollback", "rollback_steps": 40}
    # 60, 70, 80, 90, 95 and the one before them; and one that is being written.
    assert problem_with(7 * whole, **returns) == ""
    assert "lower config.checkpoint.keep or config.trouble.rollback_steps" in problem_with(
        7 * whole - 1, **returns
    )
    for step in ("10", "20", "30.unusable"):
        (workdir / "checkpoints" / step).mkdir(parents=True)
        (workdir / "checkpoints" / step / "array").write_bytes(bytes(whole))
    assert problem_with(whole) == ""
    assert f"they need {format_bytes(whole)} more" in problem_with(whole - 1)  # before an old one goes


def test_rows_of_another_build_are_found_by_reading_all(data, tmp_path):
    shutil.copytree(data / "corpus", tmp_path / "corpus")
    name = replace_rows(tmp_path / "corpus", lambda rows: rows[::-1])
    config = config_dict.ConfigDict(load_config("configs/debug.py").to_dict())
    changes = values(data) | {"data.datasets": (str(tmp_path / "corpus"),)}
    config.update_from_flattened_dict(changes)
    inputs = open_inputs(resolve(config.to_dict()), tmp_path / "run")
    signs = []
    with pytest.raises(OSError, match=rf"the rows of {name} are not those that were built"):
        check_rows(inputs, lambda: signs.append(1))
    assert signs


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0 B"), (1023, "1,023 B"), (1536, "1.5 KiB"), (2**40 * 3, "3.0 TiB")]
)
def test_bytes_are_formatted(number, text):
    assert format_bytes(number) == text


def test_help_explains_flags_and_exit_codes():
    outcome = run_module("electra_jax.doctor", "--help")
    assert "--expect_devices" in outcome.stdout and "Exit code 0: all checks passed" in outcome.stdout
