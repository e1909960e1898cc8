"""Python programs in processes of their own."""

import os
import resource
import subprocess
import sys

from support.forked_process import ForkedProcess, can_fork
from support.paths import ROOT

OUTPUTS = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}


def run_python(*words, environment=None, cwd=ROOT, timeout=300, **more):
    """The completed process `python WORDS`, with what it printed as text; `more` as for `subprocess.run`."""
    return subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        **more,
    )


def run_module(*words, environment=None, timeout=300, input=None, **more):
    """The completed process `python -m WORDS`, forked where that makes no difference; `more` as for
    `run_python`."""
    variables = os.environ if environment is None else environment
    if more or not can_fork(variables):
        return run_python("-m", *words, environment=environment, timeout=timeout, input=input, **more)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with ForkedProcess(
        words, variables, stdin=None if input is None else subprocess.PIPE, **pipes
    ) as process:
        printed = process.communicate(input, timeout)
    return subprocess.CompletedProcess(process.args, process.returncode, *printed)


def start_module(words, environment, file_limit=None):
    """The process `python -m WORDS`, just started; its output and errors are text in pipes. No file may grow
    beyond `file_limit` bytes."""
    if can_fork(environment):
        limits = {"RLIMIT_FSIZE": file_limit} if file_limit else None
        return ForkedProcess(words, environment, limits=limits, **OUTPUTS)
    process = subprocess.Popen(
        [sys.executable, "-m", *words], cwd=ROOT, env=environment, text=True, **OUTPUTS
    )
    # From outside, while the process starts: code between fork and exec is unsafe beside JAX's threads.
    if file_limit:
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (file_limit, file_limit))
    return process
