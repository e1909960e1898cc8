"""A worker of a process pool that is killed while it holds the lock of the number that all share."""

import os
import signal


def die_with_the_lock(number):
    """In place of the initializer of `data_pipelines.shards.run_jobs`."""
    number.get_lock().acquire()
    os.kill(os.getpid(), signal.SIGKILL)
