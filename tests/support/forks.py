"""Forked commands that write all they print into one file."""

import itertools
import subprocess

from support.forked_process import ForkedProcess


class Started:
    """A command; `code` is there once `wait` has returned."""

    def __init__(self, path, words, environment, limits):
        self._path, self.code = path, None
        # Through a pipe, since a limit of the size of files would cut it.
        with path.open("wb") as file:
            self._writer = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=file)
        with self._writer.stdin as pipe:
            self._process = ForkedProcess(
                words,
                environment,
                stdin=subprocess.DEVNULL,
                stdout=pipe,
                stderr=subprocess.STDOUT,
                limits=limits,
            )
        self.pid = self._process.pid

    def wait(self):
        """The exit code."""
        if self.code is None:
            self.code = self._process.wait()
            self._writer.wait()
        return self.code

    @property
    def text(self):
        """All that it printed so far."""
        return self._path.read_text(errors="replace")


class Forks:
    """Starts commands with the variables `environment`; their texts are in the directory `root`."""

    def __init__(self, root, environment):
        self._root, self._environment, self._numbers = root, environment, itertools.count()

    def start(self, module, *flags, limits=None):
        """Start a command; `limits`: {"RLIMIT_FSIZE": bytes}."""
        path = self._root / f"{next(self._numbers)}.txt"
        return Started(path, [module, *flags], self._environment, limits)

    def run(self, module, *flags, limits=None):
        """The command at its end."""
        started = self.start(module, *flags, limits=limits)
        started.wait()
        return started
