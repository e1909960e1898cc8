"""Runs commands as forks of a process that has already imported everything, which saves a quarter of the CPU
time of a short one.

Each is a process of its own, with its own streams, environment and signals, as if "python -m" had started it.
All have one hash seed. What depends on that, on imports, on an installation or on the folder needs a real
start: `run_python`. So does a command whose variables change imports, unless many have the same ones:
then another server pays off: `serve_forks`.
"""

import atexit
import contextlib
import functools
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading

from support.paths import ROOT

# Variables that are read when a module is imported: a command with others cannot be forked.
READ_AT_IMPORT = (
    *("PYTHON", "JAX_", "LC_", "LANG", "MPL", "XDG_", "HOME", "LD_", "MALLOC", "GLIBC"),
    *("HF_", "TRANSFORMERS_", "TF_", "OMP_", "OPENBLAS_"),
)
# The variables that servers start with: this process's, whatever a test changes later, and what is added.
STARTED_WITH = [dict(os.environ)]
SECONDS_TO_START, SECONDS_TO_READ = 120, 60


def can_fork(environment):
    """Whether a command with these variables is the same when it is forked."""
    return _number(environment) is not None


def serve_forks(environment):
    """Let commands whose variables change imports as those of `environment` do be forked from now on: by
    another server, which starts with the first of them."""
    if not can_fork(environment):
        STARTED_WITH.append(dict(environment))


def _number(environment):
    """Which of STARTED_WITH is the same for imports; None if none is."""

    def read(variables):
        return {name: value for name, value in variables.items() if name.startswith(READ_AT_IMPORT)}

    equal = (number for number, known in enumerate(STARTED_WITH) if read(known) == read(environment))
    return next(equal, None)


class ForkedProcess:
    """`python -m WORDS`, with those methods of subprocess.Popen that tests use; its streams are text.

    Args:
      words: the module and its arguments.
      environment: variables for which `can_fork`.
      stdin, stdout, stderr: as for Popen; None is the stream of this process.
      limits: {"RLIMIT_FSIZE": bytes}.
    """

    def __init__(self, words, environment, *, stdin=None, stdout=None, stderr=None, limits=None):
        self.args, self.returncode = list(map(str, words)), None
        self.stdin = self.stdout = self.stderr = None
        status, pipe = os.pipe()
        self._status, theirs = os.fdopen(status), []
        for number, (name, choice) in enumerate((("stdin", stdin), ("stdout", stdout), ("stderr", stderr))):
            if choice == subprocess.PIPE:
                ends = os.pipe()
                own, other = reversed(ends) if number == 0 else ends
                setattr(self, name, os.fdopen(own, "w" if number == 0 else "r"))
            elif choice == subprocess.STDOUT:
                other = os.dup(theirs[1])
            elif choice == subprocess.DEVNULL:
                other = os.open(os.devnull, os.O_RDWR)
            else:
                other = os.dup(number if choice is None else choice.fileno())
            theirs.append(other)
        request = {"words": self.args, "environment": dict(environment), "limits": limits or {}}
        socket.send_fds(_server(_number(environment)), [json.dumps(request).encode()], [*theirs, pipe])
        for descriptor in (*theirs, pipe):
            os.close(descriptor)
        line = self._status.readline() if self._has_line(SECONDS_TO_START) else ""
        assert line, "the fork server has ended or hangs"
        self.pid = int(line)

    def poll(self):
        """The exit code, None while the process runs."""
        if self.returncode is None and self._has_line(0):
            self.wait()
        return self.returncode

    def wait(self, timeout=None):
        """The exit code."""
        if self.returncode is None:
            if not self._has_line(timeout):
                raise subprocess.TimeoutExpired(self.args, timeout)
            self.returncode = int(self._status.readline())
            self._status.close()
        return self.returncode

    def communicate(self, input=None, timeout=None):
        """(what it printed, what it printed on stderr) at its end; None for what is not a pipe."""
        texts = {}
        names = [name for name in ("stdout", "stderr") if getattr(self, name) is not None]

        def read(name):
            with getattr(self, name) as stream:
                texts[name] = stream.read()

        readers = [threading.Thread(target=read, args=(name,), daemon=True) for name in names]
        for reader in readers:
            reader.start()
        if self.stdin is not None:
            with contextlib.suppress(BrokenPipeError), self.stdin as stream:
                stream.write(input or "")
        try:
            self.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise
        finally:
            for reader in readers:
                reader.join(SECONDS_TO_READ)
            if any(reader.is_alive() for reader in readers):  # a child of the command holds the pipe
                self.stdout = self.stderr = None  # closing them would wait for the reader
                raise subprocess.TimeoutExpired(self.args, SECONDS_TO_READ)
        return texts.get("stdout"), texts.get("stderr")

    def send_signal(self, number):
        """Nothing happens at a process that has ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self):
        self.send_signal(signal.SIGKILL)

    def _has_line(self, timeout):
        """Whether the server has something to say within `timeout` seconds; None waits."""
        return bool(select.select([self._status], [], [], timeout)[0])

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        for stream in (self.stdin, self.stdout, self.stderr):
            if stream is not None:
                stream.close()
        self.wait()


@functools.cache
def _server(number):
    """A socket to the server of this process that has started with STARTED_WITH[number], and ends with this
    process."""
    own, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with other:
        words = [sys.executable, "-m", "support.fork_server", str(other.fileno())]
        started_with = STARTED_WITH[number]
        places = [str(ROOT), str(ROOT / "tests"), started_with.get("PYTHONPATH", "")]
        variables = started_with | {"PYTHONPATH": os.pathsep.join(filter(None, places))}
        server = subprocess.Popen(
            words, cwd=ROOT, env=variables, pass_fds=[other.fileno()], stdin=subprocess.DEVNULL
        )

    def end():
        own.shutdown(socket.SHUT_RDWR)
        own.close()
        server.wait(60)

    atexit.register(end)
    return own
