"""How far the host runs ahead of the devices.

JAX queues steps and returns at once; its CPU client accepts 32 of them before it waits. A run that is told to
stop would have to wait for all of them before it can save. Two are enough that the devices always have work.
"""

import collections
from typing import Any

import jax

MOST_STEPS = 2


class RunAhead:
    """Keeps the host at most `most` steps ahead: call `dispatched` after every step."""

    def __init__(self, most: int = MOST_STEPS):
        self._most = most
        self._pending: collections.deque[Any] = collections.deque()

    def dispatched(self, result: Any) -> None:
        """Note the step dispatched last, and wait until at most `most` steps are not done on the devices.

        Args:
          result: an array, or a tree of them, that the step returned and that no later step is given as a
            donated argument. Nothing is copied to the host.
        """
        self._pending.append(result)
        if len(self._pending) > self._most:
            jax.block_until_ready(self._pending.popleft())
