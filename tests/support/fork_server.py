"""The server of forked_process.py: it has imported what commands need, and forks a child for each of them.

`python -m support.fork_server DESCRIPTOR` reads requests from a socket: a JSON object with the words behind
"python -m", the environment and the limits of the command, and four descriptors: its standard input, output
and error, and a pipe. Two lines are written to the pipe: the number of the command's process, then its exit
code (negative: the signal that ended it).
"""

import atexit
import contextlib
import gc
import importlib
import json
import os
import random
import resource
import runpy
import signal
import socket
import sys
import tempfile
import warnings

MAX_REQUEST = 1 << 20  # bytes
THREADS = "/proc/self/task"  # a folder of Linux
MODULES = (
    "electra_jax.pretrain",
    "electra_jax.convert",
    "electra_jax.doctor",
    "electra_jax.evaluate",
    "electra_jax.finetune",
    "electra_jax.predict",
    "electra_jax.benchmark",
    "electra_jax.compare",
    "electra_jax.plan",
    "electra_jax.report",
    "electra_jax.soup",
    "data_pipelines.clean",
    "data_pipelines.corpus",
    "data_pipelines.tokenizer",
    # What commands import when they need it.
    "array_record.python.array_record_module",
    "matplotlib.backends.backend_agg",
    "orbax.checkpoint",
    "sentencepiece",
    "sklearn.metrics",
    "tokenizers",
)


def serve(connection):
    """Answer requests until there are no more. Returns None; in the process of a command its words."""
    for name in MODULES:
        with contextlib.suppress(ModuleNotFoundError):
            importlib.import_module(name)
    # Silences two expected warnings: JAX's about os.fork, and runpy's that the module is already imported.
    warnings.filterwarnings("ignore", category=RuntimeWarning, message=".*fork|.*found in sys.modules")
    gc.freeze()  # or every command would look through all that was imported when it ends
    sys.stdout.flush()  # or every command would print what an import has left
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps the reporting processes
    while True:
        data, descriptors, _, _ = socket.recv_fds(connection, MAX_REQUEST, 4)
        if not data:
            return None
        if os.fork() == 0:
            connection.close()
            return _run_and_report(json.loads(data), descriptors)
        for descriptor in descriptors:
            os.close(descriptor)


def _run_and_report(request, descriptors):
    """Fork the command, report its process id and exit code, and exit. Returns only in the command's
    process."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    *streams, pipe = descriptors
    pid = os.fork()
    if pid == 0:
        os.close(pipe)
        return _become(request, streams)
    os.setsid()  # Ctrl-C is for the command
    for descriptor in (0, 1, 2, *streams):
        os.close(descriptor)
    os.write(pipe, b"%d\n" % pid)
    os.write(pipe, b"%d\n" % os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    os._exit(0)


def _become(request, streams):
    """Make this process that of a command, and return its words."""
    for number, descriptor in enumerate(streams):
        os.dup2(descriptor, number)
        os.close(descriptor)
    sys.stdin, sys.stdout = os.fdopen(0, closefd=False), os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", 1, errors="backslashreplace", closefd=False)
    os.environ.clear()
    os.environ.update(request["environment"])
    tempfile.tempdir = None  # which the environment decides
    random.seed()
    for name, size in request["limits"].items():
        resource.setrlimit(getattr(resource, name), (size, size))
    return request["words"]


def _run(words):
    """Run the command to the end of this process.

    At its end the interpreter releases all that was imported, which copies every page of it: two thirds of
    the CPU time of a command with a wrong flag. A command without threads does not need this: its exit
    handlers run, its streams are flushed, and the kernel gets the memory.
    """
    code = 0
    try:
        runpy.run_module(words[0], run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code or 0
    if os.path.isdir(THREADS) and len(os.listdir(THREADS)) == 1:
        atexit._run_exitfuncs()
        with contextlib.suppress(OSError):  # the interpreter says that a stream cannot be flushed
            if isinstance(code, str):
                sys.stderr.write(f"{code}\n")
                code = 1
            for stream in (sys.stdout, sys.stderr):
                if not stream.closed:
                    stream.flush()
            os._exit(code & 0xFF)
    sys.exit(code)


if __name__ == "__main__":
    words = serve(socket.socket(fileno=int(sys.argv[1])))
    if words is not None:
        sys.argv = words
        _run(words)
