"""From a compiled step to time and money. What is assumed, and not known, are the arguments."""

import math
from typing import Any, NamedTuple

from electra_jax.models.config import make_pretraining_config
from electra_jax.objectives.registry import forward_flops

HOUR, DAY = 3600.0, 86400.0


class Estimate(NamedTuple):
    """model_flops: of a step on all devices, three times the forward pass (models/flops.py). days, dollars:
    of all steps."""

    model_flops: float
    step_seconds: float
    tokens_per_second: float
    days: float
    dollars: float
    checkpoint_every: int


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
    """`utilization`: the share of the peak that goes into model FLOPs. `dollars_per_hour` is of one device.

    The checkpoint interval is Young's, √(2 · save · between stops), in steps: what is lost by saving and by
    doing again are then about the same (Young, A first order approximation to the optimum checkpoint
    interval, 1974).
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
    """To two digits: 3,714 → 3,700."""
    return int(float(f"{value:.1e}"))
