"""Which checkpoints Orbax keeps."""

import bisect
from collections.abc import Sequence
from typing import Any

from orbax.checkpoint.checkpoint_managers import preservation_policy


def within_reach(steps: Sequence[int], reach: int) -> set[int]:
    """The checkpoints that a return by `reach` steps may need: those of the last `reach` steps before the
    newest one, and the newest one that is older."""
    border = max(steps, default=0) - reach
    older = [step for step in steps if step <= border]
    return {step for step in steps if step > border} | ({max(older)} if older else set())


def most_kept(steps: Sequence[int], keep: int, reach: int) -> int:
    """The largest number of checkpoints that `which_to_keep` keeps at once of a run that saves at `steps`,
    which grow; at least `keep`."""
    if not reach:
        return keep
    counts = [keep]
    for number, newest in enumerate(steps, 1):  # as `within_reach` of the first `number`
        num_older = bisect.bisect_right(steps, newest - reach)
        counts.append(number - num_older + min(num_older, 1))
    return max(counts)


class _Reach:
    """Orbax's policy to keep those, whatever else is kept."""

    def __init__(self, reach: int):
        self._reach = reach

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        del context
        kept = within_reach([one.step for one in checkpoints], self._reach)
        return [one.step in kept for one in checkpoints]


def which_to_keep(keep: int | None, reach: int) -> dict[str, Any]:
    """Options of Orbax's manager: the newest `keep` checkpoints (None: all) and, if `reach` is not 0, those
    `within_reach`."""
    if not reach:
        return {"max_to_keep": keep}
    policies = [preservation_policy.LatestN(keep), _Reach(reach)]
    return {"preservation_policy": preservation_policy.AnyPreservationPolicy(policies)}
