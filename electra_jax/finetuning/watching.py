"""What is read from a fine-tuning while it runs: the losses, and scores on the validation split."""

import collections
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from data_pipelines.progress import Progress
from electra_jax.training.run_ahead import MOST_STEPS

SHOWN_STEPS = 20  # the loss that is shown is the mean of the last ones
TEST = "test"  # the names of splits that never choose a model begin with it
LAST, BEST = "last", "best"  # values of config.train.keep
REMEDY = "Lower config.optimizer.learning_rate, or lengthen the warm-up (config.optimizer.warmup_share)."


class Validation(NamedTuple):
    """The split that a run is scored on while it trains, and what the scores decide."""

    split: str
    every: int  # steps; 0: once an epoch
    keeps_best: bool  # end with the parameters with the best score and not with the last ones
    score: Callable[[Sequence[Any]], dict[str, float]]  # outputs of each row → metrics; the first decides


class Watch(NamedTuple):
    """How a run is watched."""

    title: str | None = None  # before the lines on stderr; None: nothing is shown
    validation: Validation | None = None  # how it is scored while it trains; None: not at all
    check: Callable[[], None] = lambda: None  # called between steps; may raise Stopped


class Score(NamedTuple):
    """One validation; these make up training.json."""

    step: int
    loss: float  # mean of the steps since the one before
    metrics: dict[str, float]


def validation_split(labelled: Sequence[str]) -> str | None:
    """The first of the held-out splits with labels that is not a test set; None without one."""
    return next((split for split in labelled if not split.startswith(TEST)), None)


def validation_steps(every: int, num_rows: int, batch_size: int, num_epochs: int) -> set[int]:
    """The steps after which a run is scored: multiples of `every`; with 0, the last step of each epoch."""
    ends = {-(-num_rows * epoch // batch_size) for epoch in range(1, num_epochs + 1)}
    return set(range(every, max(ends) + 1, every)) | {max(ends)} if every else ends


class Losses:
    """Losses on their way from the devices. The host reads each two steps later, so that it is never
    further ahead of the devices."""

    def __init__(self, num_steps: int, progress: Progress):
        self._num_steps, self._progress = num_steps, progress
        self._pending: collections.deque[tuple[int, jax.Array]] = collections.deque()
        self._recent: collections.deque[float] = collections.deque(maxlen=SHOWN_STEPS)
        self._since_mean: list[float] = []

    def add(self, step: int, loss: jax.Array) -> None:
        """Note the loss of the step dispatched last, and read older ones.

        Raises:
          FloatingPointError: one of these is not finite.
        """
        self._pending.append((step, loss))
        while len(self._pending) > MOST_STEPS:
            self._read()

    def mean(self) -> float:
        """The mean over all steps since the last call. Waits for the devices; raises as `add` does."""
        while self._pending:
            self._read()
        losses, self._since_mean = self._since_mean, []
        return float(np.mean(losses))

    def _read(self) -> None:
        step, loss = self._pending.popleft()
        value = float(loss)
        if not math.isfinite(value):
            raise FloatingPointError(f"the loss of step {step} of {self._num_steps} is {value}. {REMEDY}")
        self._recent.append(value)
        self._since_mean.append(value)
        self._progress.update(step, {"loss": f"{np.mean(self._recent):.3f}"})


def finite_on_host(params: Any, step: int) -> Any:
    """Parameters on the host.

    Raises:
      FloatingPointError: some are not finite, as after an update that overflowed; the loss tells only a step
        later.
    """
    on_host = jax.device_get(params)
    if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(on_host)):
        raise FloatingPointError(f"the parameters after step {step} are not finite. {REMEDY}")
    return on_host
