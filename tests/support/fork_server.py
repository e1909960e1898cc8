"""Commands in forks of one process that has imported everything, which saves most of a command's time.

`python -m support.fork_server` reads requests, one JSON object per line, and answers each with two
lines: the number of the new process, then its exit code (negative: the signal that ended it). `ForkServer` is
the other side.
"""

import contextlib
import importlib
import json
import os
import resource
import subprocess
import sys
import warnings
from pathlib import Path

from support.forked_commands import run
from support.paths import ROOT

MODULES = (
    "electra_jax.pretrain",
    "electra_jax.doctor",
    "data_pipelines.corpus",
    "data_pipelines.tokenizer",
    "orbax.checkpoint",
    "array_record.python.array_record_module",
    "matplotlib.backends.backend_agg",
    "sentencepiece",
)


class Started:
    """A process of the server; `code` and `text` are there once `wait` has returned."""

    def __init__(self, server, request):
        self._server, self._text = server, Path(request["output"])
        self.pid = server.ask(request)
        self.code = None

    def wait(self):
        """The exit code."""
        if self.code is None:
            self.code = int(self._server.answer())
        return self.code

    @property
    def text(self):
        """All that it printed so far."""
        return self._text.read_text(errors="replace")


class ForkServer:
    """A context manager. One process at a time."""

    def __init__(self, root, environment):
        self._output = root / "output.txt"
        self._process = subprocess.Popen(
            [sys.executable, "-m", "support.fork_server"],
            cwd=ROOT,
            env=environment | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def start(self, module, *flags, limits=None):
        """Start a command; `limits`: {"RLIMIT_FSIZE": bytes}."""
        words = [module, *map(str, flags)]
        return Started(self, {"words": words, "output": str(self._output), "limits": limits or {}})

    def run(self, module, *flags, limits=None):
        """The command at its end."""
        started = self.start(module, *flags, limits=limits)
        started.wait()
        return started

    def ask(self, request):
        """Send a request; returns the number of the process."""
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return int(self.answer())

    def answer(self):
        """The next line of the server."""
        line = self._process.stdout.readline()
        assert line, f"the fork server ended with {self._process.wait()}"
        return line

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self._process.stdin.close()
        self._process.wait(60)
        self._process.stdout.close()


def serve():
    """Answer requests until there are no more."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    for name in MODULES:
        with contextlib.suppress(ModuleNotFoundError):
            importlib.import_module(name)
    # JAX does not like forks, and a module is imported before it is run.
    warnings.filterwarnings("ignore", category=RuntimeWarning, message=".*fork|.*found in sys.modules")
    for line in sys.stdin:
        request = json.loads(line)
        # Through a pipe, since a limit of the size of files would cut it.
        with open(request["output"], "wb") as file:
            writer = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=file)
        pid = os.fork()
        if pid == 0:
            answers.close()
            _become(request, writer.stdin.fileno())
        writer.stdin.close()
        print(pid, file=answers)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        writer.wait()
        print(code, file=answers)


def _become(request, output):
    """Be the command `request`, which prints to the descriptor `output`."""
    code = 1
    try:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for descriptor, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(output, descriptor)
            setattr(sys, name, os.fdopen(descriptor, "w", 1, closefd=False))
        os.close(output)
        for name, size in request["limits"].items():
            resource.setrlimit(getattr(resource, name), (size, size))
        code = run(request["words"])
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):
                stream.flush()
    finally:
        os._exit(code)


if __name__ == "__main__":
    serve()
