"""How processes end: a worker with the process that started it."""

import multiprocessing
import os
import threading
from multiprocessing.connection import wait


def end_with_parent() -> None:
    """Let this worker process end when its parent does, however that ends. Those of an executor would work
    on and then wait forever if the parent was killed, and write into what the next command makes."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
