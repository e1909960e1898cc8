"""Runs of one process or of two that a test ends: `send` a signal, `wait` for the exit code."""

import contextlib
import os
import signal
import socket
import subprocess
from pathlib import Path

from support.forked_process import ForkedProcess

SECONDS = 600  # that two processes may take


class Pair:
    """Two processes of one run."""

    def __init__(self, words, environment, output):
        with socket.socket() as free:
            free.bind(("localhost", 0))
            place = f"--coordinator=localhost:{free.getsockname()[1]}"
        self._output = output.open("w")
        self._processes = [
            ForkedProcess(
                [*words, place, "--num_processes=2", f"--process_id={number}"],
                environment,
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=subprocess.STDOUT,
            )
            for number in range(2)
        ]

    def send(self, number):
        """To one of them; after kill -9 the other one cannot continue, and is killed, too."""
        self._processes[1].send_signal(number)
        if number == signal.SIGKILL:
            self._processes[0].kill()

    def is_running(self):
        """Whether one of them is."""
        return any(process.poll() is None for process in self._processes)

    def wait(self, timeout=SECONDS):
        """The larger exit code."""
        codes = [process.wait(timeout) for process in self._processes]
        self._output.close()
        return max(codes, key=abs)

    @property
    def text(self):
        """What both printed."""
        return Path(self._output.name).read_text(errors="replace")

    code = property(wait)


class Single:
    """A fork."""

    def __init__(self, forks, words):
        self._started = forks.start(*words)

    def send(self, number):
        """To the process."""
        with contextlib.suppress(ProcessLookupError):  # it ended by itself
            os.kill(self._started.pid, number)

    def is_running(self):
        """Whether it is."""
        return Path(f"/proc/{self._started.pid}").exists()

    def wait(self):
        """Its exit code."""
        return self._started.wait()

    @property
    def text(self):
        """What it printed."""
        return self._started.text

    code = property(wait)
