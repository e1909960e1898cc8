"""Reading a checkpoint of a run that may train meanwhile, and then removes all but its newest ones."""

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from etils import epath

from electra_jax.runs.bucket_checkpoints import open_checkpoints
from electra_jax.training.checkpointing import Checkpointer, UnusableCheckpoint

SECONDS_TO_REMOVE = 2  # a large checkpoint, of which a reader has missed the first file
# For a command whose checkpoint was removed between two readings.
KEPT_ADVICE = (
    "Run the same command again. Of a run that is still training, give DIR:STEP of a checkpoint that it "
    "keeps, or raise its config.checkpoint.keep."
)


def read_chosen(
    workdir: Path,
    step: int | None,
    choose: Callable[[Checkpointer, int | None], int],
    read: Callable[[Checkpointer, int], Any],
) -> tuple[int, Any]:
    """(step, what `read` gives) of the checkpoint that `choose` gives for `step`; without a step, of the next
    that it gives if the run has removed the first one in the meantime.

    Raises:
      OSError: the run removed the checkpoint of `step`; names its newest one. What `choose` and `read` raise.
    """
    with contextlib.closing(open_checkpoints(workdir, keep=None)) as checkpointer:
        chosen = choose(checkpointer, step)
        try:
            return chosen, read(checkpointer, chosen)
        except UnusableCheckpoint as error:
            place = checkpointer.place(chosen)
            with contextlib.closing(open_checkpoints(workdir, keep=None)) as later:
                newest = choose(later, None)
                if newest <= chosen or not _is_removed(place):
                    raise
                if step is None:
                    return newest, read(later, newest)
            raise OSError(
                f"The checkpoint {place} was removed while it was read: the run that trains here keeps only "
                f"its newest ones (config.checkpoint.keep). The newest is {workdir}:{newest}."
            ) from error


def _is_removed(place: epath.Path) -> bool:
    """Whether a checkpoint of which something is missing is gone, at once or in SECONDS_TO_REMOVE."""
    end = time.monotonic() + SECONDS_TO_REMOVE
    while place.exists() and time.monotonic() < end:
        time.sleep(0.1)
    return not place.exists()
