"""Which batch a step takes in a run that passed over some: still a function of the step alone."""

from collections.abc import Sequence
from typing import NamedTuple


class PassedOver(NamedTuple):
    """Batches that a run left out when it returned to an earlier step."""

    step: int  # the step, from 0, that the run returned to
    batches: int  # those of this step and the following ones, in the order before


def batch_number(step: int, passed_over: Sequence[PassedOver]) -> int:
    """Number of the batch of `step`, both from 0, in the order without anything passed over.

    Args:
      passed_over: what a run passed over, the earliest first. Each changes the order that the earlier ones
        left: from `one.step` on, every step takes the batch that was that of the step `one.batches` later.
    """
    for one in reversed(passed_over):
        if step >= one.step:
            step += one.batches
    return step
