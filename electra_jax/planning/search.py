"""The execution with which a batch fits at least cost: in how many parts, how much is computed again, how
parameters lie.

Costs, from the least: more microbatches, as long as each has enough tokens to fill the device; computing more
again; parameters cut over more devices, which must then be gathered in every layer.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from electra_jax.models.config import REMAT
from electra_jax.planning.compiled import CompiledStep, DoesNotFitError

ENOUGH_TOKENS = 4096  # a device and microbatch: below that, fixed costs show


class Trial(NamedTuple):
    """One compilation: `step` where it fits, else `refusal`."""

    config: dict[str, Any]
    step: CompiledStep | None
    refusal: DoesNotFitError | None


def with_execution(config: dict[str, Any], *, remat: str, num_microbatches: int, fsdp: int) -> dict[str, Any]:
    """`config` executed in that way; the rest of the devices lies on the data axis."""
    train = config["train"] | {"remat": remat, "num_microbatches": num_microbatches}
    return config | {"train": train, "mesh": config["mesh"] | {"data": -1, "fsdp": fsdp}}


def search(
    config: dict[str, Any], num_devices: int, attempt: Callable[[dict[str, Any]], CompiledStep]
) -> Iterator[Trial]:
    """All trials; `chosen` picks from them. `attempt` compiles, or raises DoesNotFitError.

    With each way of cutting the parameters and each policy the smallest microbatch that is worth it decides
    whether any fits. The largest is then found by halving their number, and beyond one by doubling the batch,
    until the compiler refuses.

    Raises:
      ValueError: the batch cannot be cut over the devices, or nothing fits.
    """

    def try_out(remat: str, fsdp: int, num_microbatches: int, growth: int = 1) -> Trial:
        tried = with_execution(config, remat=remat, num_microbatches=num_microbatches, fsdp=fsdp)
        tried["train"]["batch_size"] *= growth
        try:
            return Trial(tried, attempt(tried), None)
        except DoesNotFitError as refusal:
            return Trial(tried, None, refusal)

    most = most_microbatches(config, num_devices)
    for fsdp in (size for size in range(1, num_devices + 1) if num_devices % size == 0):
        for remat in REMAT:
            trial = try_out(remat, fsdp, most)
            yield trial
            larger = _larger(config["train"]["batch_size"] // num_devices, most)
            while trial.step is not None:
                trial = try_out(remat, fsdp, *next(larger))
                yield trial
                if trial.step is None:
                    return
    raise ValueError(
        f"nothing fits: not even {config['train']['batch_size'] // most // num_devices} rows a device with "
        f"layers computed again and parameters cut over {num_devices} devices. Take more, or larger, "
        "devices, shorter rows, or --config.objective.vocab_chunk_size=16384."
    )


def chosen(config: dict[str, Any], trials: Sequence[Trial]) -> Trial:
    """The trial with the batch of `config` that fits in the fewest microbatches."""
    batch_size = config["train"]["batch_size"]
    return [
        trial
        for trial in trials
        if trial.step is not None and trial.config["train"]["batch_size"] == batch_size
    ][-1]


def _larger(rows: int, num_microbatches: int) -> Iterator[tuple[int, int]]:
    """(number of microbatches, growth of the batch), of `rows` a device, with a microbatch twice as large or
    more each time."""
    while num_microbatches > 1:
        num_microbatches = max(number for number in range(1, num_microbatches // 2 + 1) if rows % number == 0)
        yield num_microbatches, 1
    for power in itertools.count(1):
        yield 1, 2**power


def most_microbatches(config: dict[str, Any], num_devices: int) -> int:
    """The largest number of microbatches that leaves each device rows with enough tokens, or one row.

    Raises:
      ValueError: the devices cannot share the batch.
    """
    batch_size, length = config["train"]["batch_size"], config["data"]["sequence_length"]
    rows, rest = divmod(batch_size, num_devices)
    if rest:
        raise ValueError(
            f"config.train.batch_size: got {batch_size}, which {num_devices} devices cannot share equally."
        )
    return max(
        number
        for number in range(1, rows + 1)
        if rows % number == 0 and (number == 1 or rows // number * length >= ENOUGH_TOKENS)
    )
