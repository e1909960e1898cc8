"""The lock of a run: when a signal ends the process at once, and who holds it."""

import os
import signal
import subprocess
import sys

from electra_jax.runs import only_writer
from support.paths import ROOT

WAITING = """
import sys, time
from electra_jax.distributed.stopping import StopNotice
from electra_jax.runs.only_writer import only_writer
from electra_jax.runs.result_places import PRETRAINING
with only_writer(sys.argv[1], PRETRAINING), StopNotice() as stop, stop.nothing_to_save("waiting"):
    print("ready", flush=True)
    time.sleep(300)
"""


def test_a_run_that_is_stopped_while_it_compiles_gives_its_lock_back(tmp_path):
    words = [sys.executable, "-c", WAITING, str(tmp_path / "run")]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        assert sorted(os.listdir(tmp_path / "run")) == [".lock", ".lock.json"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 143
    assert not (tmp_path / "run").exists()


def test_what_process_0_sees_of_the_writer_holds_for_all(monkeypatch, tmp_path):
    """The host of another process is not the one that would wait for the lock."""
    monkeypatch.setattr(only_writer, "is_main_process", lambda: False)
    monkeypatch.setattr(only_writer, "exchange", lambda value: ["another process writes it", value])
    assert only_writer.describe_writer(tmp_path) == "another process writes it"
