"""Time and money of a run, from its model FLOPs and the assumptions that the caller states."""

import math
from typing import Any, NamedTuple

from electra_jax.models.config import make_pretraining_config
from electra_jax.objectives.registry import forward_flops

HOUR, DAY = 3600.0, 86400.0


class Assumptions(NamedTuple):
    """What no compiler knows. The command's flags give the values."""

    utilization: float  # share of the peak that becomes model FLOPs
    hours_between_stops: float  # how long a device stays available
    save_rate: float  # GiB of state written a second, all devices together


class Estimate(NamedTuple):
    """Time and money of all steps."""

    model_flops: float  # of one step on all devices: three times the forward pass (models/flops.py)
    step_seconds: float
    tokens_per_second: float
    days: float  # all steps
    dollars: float  # all steps, all devices
    checkpoint_every: int  # steps


def estimate(
    config: dict[str, Any],
    *,
    num_steps: int,
    num_devices: int,
    peak_flops: float,
    utilization: float,
    dollars_per_hour: float,
    hours_between_stops: float,
    save_seconds: float,
) -> Estimate:
    """Estimate `num_steps` steps of `config` on `num_devices` devices.

    The checkpoint interval is Young's, √(2 · save seconds · seconds between stops), in steps: it balances the
    time spent on saving and the time lost by repeating steps (Young, A first order approximation to the
    optimum checkpoint interval, 1974).

    Args:
      peak_flops: FLOPs a second of one device.
      utilization: share of the peak that becomes model FLOPs.
      dollars_per_hour: price of one device.
      hours_between_stops: mean time until a device is lost.
      save_seconds: time to write one checkpoint.
    """
    train, length = config["train"], config["data"]["sequence_length"]
    tokens = train["batch_size"] * length
    model_flops = 3.0 * tokens * forward_flops(config, make_pretraining_config(config["model"]))
    step_seconds = model_flops / (num_devices * peak_flops * utilization)
    total = step_seconds * num_steps
    interval = math.sqrt(2.0 * save_seconds * hours_between_stops * HOUR)
    return Estimate(
        model_flops,
        step_seconds,
        tokens / step_seconds,
        total / DAY,
        total / HOUR * dollars_per_hour * num_devices,
        max(1, _round(interval / step_seconds)),
    )


def _round(value: float) -> int:
    """Round to two significant digits: 3,714 → 3,700."""
    return int(float(f"{value:.1e}"))
