"""How processes end: a worker with the process that started it, a command in order when it gets a signal."""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from multiprocessing.connection import wait
from typing import Any, NoReturn


def end_with_parent() -> None:
    """Let this worker process end when its parent does, however that ends. Those of an executor would work
    on and then wait forever if the parent was killed, and write into what the next command makes."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextlib.contextmanager
def signals_as_exit() -> Iterator[None]:
    """Context in which SIGTERM, as of `kill`, `timeout` and SLURM, and SIGHUP, of a closed terminal, raise
    SystemExit, unless they are ignored: child processes are ended and temporary files removed. In other
    threads than the main one nothing changes."""
    is_main = threading.current_thread() is threading.main_thread()
    numbers = [
        number
        for number in (signal.SIGTERM, signal.SIGHUP)
        if is_main and signal.getsignal(number) != signal.SIG_IGN
    ]
    before = {number: signal.signal(number, _leave) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _leave(number: int, *_: Any) -> NoReturn:
    raise SystemExit(128 + number)
