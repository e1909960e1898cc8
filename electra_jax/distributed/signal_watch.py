"""Hears signals at once. Python's own handlers run in the main thread and have to wait until it leaves
compiled code: a step, a copy from a device, or minutes of XLA's compiler."""

import signal
import socket
import threading
from collections.abc import Callable


class SignalWatch:
    """Context within which every signal that has a Python handler also calls `on_signal(number)` at once, in
    another thread. Enter it in the main thread."""

    def __init__(self, on_signal: Callable[[int], None]):
        self._on_signal = on_signal

    def __enter__(self) -> "SignalWatch":
        self._heard, self._written = socket.socketpair()
        self._written.setblocking(False)
        self._previous = signal.set_wakeup_fd(self._written.fileno(), warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._listen, name="signals", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exception) -> None:
        signal.set_wakeup_fd(self._previous)
        self._written.close()  # which ends the thread, after the signals that it has not yet seen
        self._thread.join()
        self._heard.close()

    def _listen(self) -> None:
        while numbers := self._heard.recv(64):
            for number in numbers:
                self._on_signal(number)
