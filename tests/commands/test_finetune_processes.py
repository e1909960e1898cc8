"""`python -m electra_jax.finetune` from outside: two processes give the results of one, and a stopped command
keeps its finished runs."""

import json
import signal
import socket
import subprocess
import time

import pytest

from electra_jax.configuration.flags import load_config
from electra_jax.finetuning.experiment import Plan, finetune
from electra_jax.finetuning.model_files import load_model
from support.forked_process import ForkedProcess
from support.tiny_task import ONE, make_encoder

SETTINGS = {
    "task.text": "0",
    "task.label": "1",
    "train.batch_size": 8,
    "train.num_epochs": 3,
    "model.head_dropout": 0.1,
}


@pytest.fixture(scope="module")
def start(data, tmp_path_factory):
    """A pre-training run to start from."""
    return make_encoder(data, tmp_path_factory)[1]


@pytest.fixture()
def files(data, tmp_path):
    """Sentences whose words are tagged by their first letter; 13 to train on do not fill the last batch."""
    words = sorted({word for line in (data / "train.txt").read_text().splitlines() for word in line.split()})
    for split, number in (("train", 13), ("validation", 5)):
        sentences = [
            "".join(f"{word} {'B-X' if word < words[30] else 'O'}\n" for word in words[i : i + 3 + i % 4])
            for i in range(20, 20 + number)
        ]
        (tmp_path / f"{split}.conll").write_text("\n".join(sentences) + "\n")
    return {f"task.{split}": str(tmp_path / f"{split}.conll") for split in ("train", "validation")}


def begin(workdir, start, files, environment, *more, number=1):
    """The processes of one command, each with one device."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    command = ["electra_jax.finetune", "--config=configs/finetune.py:task=local_tagging"]
    command += [f"--config.{key}={value}" for key, value in (SETTINGS | files).items()]
    command += [f"--init_from={start}", f"--workdir={workdir}", *more]
    processes = []
    for index in range(number):
        place = [f"--coordinator=localhost:{port}", f"--num_processes={number}", f"--process_id={index}"]
        with log_of(workdir, index).open("w") as file:
            processes.append(
                ForkedProcess(
                    command + (place if number > 1 else []),
                    environment,
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                )
            )
    return processes


def log_of(workdir, index=0):
    return workdir.with_name(f"{workdir.name}.{index}.log")


def text_of(workdir, index=0):
    return log_of(workdir, index).read_text(errors="replace")


def until(words, workdir, process):
    """Block until the log of process 0 has these words."""
    deadline = time.monotonic() + 400
    while words not in text_of(workdir):
        assert process.poll() is None and time.monotonic() < deadline, text_of(workdir)
        time.sleep(0.01)


@pytest.mark.slow
def test_two_processes_give_the_results_of_one(start, files, environment, tmp_path):
    config = load_config("configs/finetune.py:task=local_tagging").to_dict()
    for key, value in (SETTINGS | files).items():
        section, _, name = key.partition(".")
        config[section][name] = value
    config["mesh"] = ONE | {"data": 8}
    [alone] = finetune(config, tmp_path / "one", Plan([str(start)], [0]))
    processes = begin(tmp_path / "two", start, files, environment, number=2)
    assert [process.wait(timeout=400) for process in processes] == [0, 0], text_of(tmp_path / "two")
    [together] = json.loads((tmp_path / "two" / "results.json").read_text())
    assert together["metrics"] == alone.metrics
    one, two = (
        load_model(next((tmp_path / name / "models").iterdir())).params["head"]["classifier"]["kernel"]
        for name in ("one", "two")
    )
    assert abs(one - two).max() < 1e-5 < abs(one).max()
    scores, others = (
        json.loads(next((tmp_path / name).rglob("training.json")).read_text())["scores"]
        for name in ("one", "two")
    )
    assert [score["step"] for score in scores] == [2, 4, 5]
    for score, other in zip(scores, others, strict=True):
        assert score == other | {"loss": pytest.approx(other["loss"], rel=1e-5)}
    assert "| span_f1 " in text_of(tmp_path / "two")  # process 0 alone prints
    assert "span_f1" not in text_of(tmp_path / "two", 1) and "train:" not in text_of(tmp_path / "two", 1)


@pytest.mark.slow
def test_a_stopped_command_keeps_its_finished_runs(start, files, environment, tmp_path):
    workdir = tmp_path / "run"
    more = ["--seeds=2", "--config.train.num_epochs=60"]
    [process] = begin(workdir, start, files, environment, *more)
    until("run 2 of 2", workdir, process)
    sent = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 143 and time.monotonic() - sent < 10
    shown = text_of(workdir)
    assert f"Told to stop while fine-tuning (run 2 of 2, {start}, seed 1)" in shown
    assert "Traceback" not in shown
    kept = json.loads((workdir / "results.json").read_text())
    assert [result["seed"] for result in kept] == [0]
    [process] = begin(workdir, start, files, environment, *more)
    assert process.wait(timeout=400) == 0, text_of(workdir)
    assert "1 of 2 runs are done already." in text_of(workdir) and "run 1 of 2" not in text_of(workdir)
    assert json.loads((workdir / "results.json").read_text())[:1] == kept


@pytest.mark.slow
def test_sigterm_to_one_of_two_processes_stops_both(start, files, environment, tmp_path):
    workdir = tmp_path / "run"
    processes = begin(workdir, start, files, environment, "--config.train.num_epochs=400", number=2)
    until("step 1/", workdir, processes[0])
    processes[1].send_signal(signal.SIGTERM)
    assert [process.wait(timeout=120) for process in processes] == [143, 143], text_of(workdir)
    assert "Stopping: finished runs are kept" in text_of(workdir)
    assert not (workdir / "results.json").exists()
