"""Time, money and input rate of a run, as ranges, from its model FLOPs and the assumptions of the caller."""

import math
from typing import Any, NamedTuple

from electra_jax.distributed.chips import GIB
from electra_jax.models.config import make_pretraining_config
from electra_jax.objectives.registry import forward_flops
from electra_jax.planning.network import Range

HOUR, HOURS_OF_A_DAY = 3600.0, 24.0
# Seconds of a step that do not shrink with its work, such as the start of its operations: assumptions.
FIXED_SECONDS = Range(0.001, 0.005)
# With fewer seconds of computation, what the estimate leaves out decides, so that it would mean nothing.
LEAST_SECONDS = 0.001
TWO_BYTES = 2**16  # the largest vocabulary whose ids a dataset stores in two bytes each


class Assumptions(NamedTuple):
    """What no compiler knows. The command's flags give the values."""

    utilization: Range | None  # share of the peak that becomes model FLOPs; None: as utilization.py has it
    hours_between_stops: float  # how long a device stays available
    save_rate: float  # GiB of state written a second, all devices together


class Work(NamedTuple):
    """What is estimated."""

    num_steps: int
    num_devices: int
    num_hosts: int
    peak_flops: float  # of one device, FLOPs a second
    utilization: Range
    network: Range | None  # seconds of a step's collectives; None: not known
    dollars_per_hour: Range  # of one device
    state_bytes: int  # of a checkpoint
    recomputation: float  # products of a step ÷ those without config.train.remat


class Estimate(NamedTuple):
    """Time, money and input rate. None: the steps are too small to estimate (LEAST_SECONDS)."""

    model_flops: float  # of one step on all devices: three times the forward pass (models/flops.py)
    recomputation: float  # what multiplies the time of the computation
    compute_seconds: Range  # of one step
    network_seconds: Range | None  # of one step; None: not known
    step_seconds: Range | None
    tokens_per_second: Range | None
    hours: Range | None  # all steps
    dollars: Range | None  # all steps, all devices
    dollars_per_day: Range  # all devices
    rows_per_second: Range | None  # that each host reads
    bytes_per_second: Range | None  # that each host reads
    checkpoint_every: int | None  # steps


def estimate(config: dict[str, Any], work: Work, assumptions: Assumptions) -> Estimate:
    """Estimate a stage of a run.

    At best communication is hidden behind the computation, at worst it comes on top.
    """
    train, length = config["train"], config["data"]["sequence_length"]
    rows = train["batch_size"]
    model_flops = 3.0 * rows * length * forward_flops(config, make_pretraining_config(config["model"]))
    ideal = work.recomputation * model_flops / (work.num_devices * work.peak_flops)
    compute = Range(ideal / work.utilization.high, ideal / work.utilization.low)
    per_day = _times(work.dollars_per_hour, HOURS_OF_A_DAY * work.num_devices)
    if compute.low < LEAST_SECONDS:
        unknown = (None,) * 4
        found = (model_flops, work.recomputation, compute, work.network)
        return Estimate(*found, *unknown, per_day, None, None, None)
    network = work.network or Range(0.0, 0.0)
    step = Range(
        max(compute.low, network.low) + FIXED_SECONDS.low, compute.high + network.high + FIXED_SECONDS.high
    )
    hours = _times(step, work.num_steps / HOUR)
    dollars = Range(*(time * price / HOURS_OF_A_DAY for time, price in zip(hours, per_day, strict=True)))
    rows_per_second = Range(*(rows / work.num_hosts / seconds for seconds in reversed(step)))
    id_bytes = 2 if config["model"]["vocab_size"] <= TWO_BYTES else 4
    return Estimate(
        model_flops,
        work.recomputation,
        compute,
        work.network,
        step,
        _times(rows_per_second, work.num_hosts * length),
        hours,
        dollars,
        per_day,
        rows_per_second,
        _times(rows_per_second, length * id_bytes),
        _checkpoint_every(step, work.state_bytes, assumptions),
    )


def _checkpoint_every(step: Range, state_bytes: int, assumptions: Assumptions) -> int:
    """Young's interval, √(2 · save seconds · seconds between stops), in steps.

    It balances the time spent on saving and the time lost by repeating steps (Young, A first order
    approximation to the optimum checkpoint interval, 1974).
    """
    save_seconds = state_bytes / (assumptions.save_rate * GIB)
    interval = math.sqrt(2.0 * save_seconds * assumptions.hours_between_stops * HOUR)
    return max(1, _round(interval / math.sqrt(step.low * step.high)))


def _times(values: Range, factor: float) -> Range:
    return Range(*(factor * value for value in values))


def _round(value: float) -> int:
    """Round to two significant digits: 3,714 → 3,700."""
    return int(float(f"{value:.1e}"))
