"""The plan of every stage of a run: its settings, compiled step and estimate."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
from tqdm import tqdm

from electra_jax.configuration.resolve import resolve
from electra_jax.distributed.absent_devices import absent_devices
from electra_jax.distributed.chips import GIB
from electra_jax.planning.chips import PlannedDevices
from electra_jax.planning.compiled import CompiledStep, DoesNotFitError, Memory, measure_step
from electra_jax.planning.estimate import Assumptions, Estimate, estimate
from electra_jax.planning.search import CompileTrial, best_trial, search


class StagePlan(NamedTuple):
    """The plan of one stage."""

    config: dict[str, Any]  # the stage's configuration, with the settings that a search found
    device: PlannedDevices
    step: CompiledStep
    figures: Estimate
    trials: list[CompileTrial]  # in the order of the search; empty without one
    utilization: float  # assumed share of the peak
    num_steps: int


def with_accelerator_settings(config: dict[str, Any]) -> dict[str, Any]:
    """`config` as accelerators should run it: computing in bfloat16, with scanned layers."""
    return config | {
        "model": config["model"] | {"dtype": "bfloat16"},
        "train": config["train"] | {"layers": "scanned"},
    }


def plan_stages(
    config: dict[str, Any], device: PlannedDevices, assumptions: Assumptions, *, is_searching: bool
) -> Iterator[StagePlan]:
    """Plan the stages of a run one by one.

    Args:
      config: a whole pre-training configuration.
      is_searching: look for the execution that fits at least cost, instead of taking the configured one.

    Raises:
      ValueError: the configuration and the devices do not match, or a stage does not fit.
    """
    devices = absent_devices(device.compiled_as)
    for stage in resolve(config).stages:
        if is_searching:
            best, step, trials = _search_execution(stage.config, devices, device.chip.memory)
        else:
            best, step, trials = stage.config, _measure_configured(stage.config, device, devices), []
        num_steps = stage.end - stage.first_step
        figures = _estimate_stage(best, device, num_steps, len(devices), step.memory, assumptions)
        yield StagePlan(best, device, step, figures, trials, assumptions.utilization, num_steps)


def describe_execution(config: dict[str, Any]) -> str:
    """The settings that decide whether a step fits."""
    train, mesh = config["train"], config["mesh"]
    return (
        f"{train['batch_size']:,} rows of {config['data']['sequence_length']} in "
        f"{train['num_microbatches']} microbatch{'es' if train['num_microbatches'] > 1 else ''}, layers "
        f"{train['layers']}, remat {train['remat']}, {config['model']['dtype']}, fsdp {mesh['fsdp']}, "
        f"tensor {mesh['tensor']}"
    )


def _search_execution(
    config: dict[str, Any], devices: list[jax.Device], available: int | None
) -> tuple[dict[str, Any], CompiledStep, list[CompileTrial]]:
    """(the best configuration, its compiled step, every trial)."""
    trials = []
    candidates = search(config, len(devices), lambda candidate: measure_step(candidate, devices, available))
    with tqdm(unit="program", desc="compiling", leave=False) as bar:
        for trial in candidates:
            trials.append(trial)
            bar.set_postfix_str(describe_execution(trial.config))
            bar.update()
    best = best_trial(config, trials)
    return best.config, best.step, trials


def _measure_configured(
    config: dict[str, Any], device: PlannedDevices, devices: list[jax.Device]
) -> CompiledStep:
    """The compiled step. Raises ValueError, with what to change, where it does not fit."""
    try:
        return measure_step(config, devices, device.chip.memory)
    except DoesNotFitError as error:
        raise ValueError(
            f"{describe_execution(config)}: does not fit {device.text}, {error.needed / GIB:.2f} GiB of "
            f"{error.available / GIB:.2f}: {error}. Give --search, or more --config.train.num_microbatches, "
            "--config.train.remat=dense|full, --config.mesh.fsdp=…."
        ) from error


def _estimate_stage(
    config: dict[str, Any],
    device: PlannedDevices,
    num_steps: int,
    num_devices: int,
    memory: Memory,
    assumptions: Assumptions,
) -> Estimate:
    state_bytes = (memory.parameters + memory.optimizer) * config["mesh"]["fsdp"] * config["mesh"]["tensor"]
    return estimate(
        config,
        num_steps=num_steps,
        num_devices=num_devices,
        peak_flops=device.chip.peak_flops,
        utilization=assumptions.utilization,
        dollars_per_hour=device.dollars_per_hour,
        hours_between_stops=assumptions.hours_between_stops,
        save_seconds=state_bytes / (assumptions.save_rate * GIB),
    )
