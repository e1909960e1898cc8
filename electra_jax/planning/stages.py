"""The plan of every stage of a run: its settings, compiled step and estimate."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax

from data_pipelines.progress import waiting
from electra_jax.configuration.resolve import resolve
from electra_jax.distributed.absent_devices import absent_devices
from electra_jax.distributed.chips import GIB
from electra_jax.distributed.mesh import make_mesh
from electra_jax.planning.chips import PlannedDevices
from electra_jax.planning.compiled import (
    CompiledStep,
    DoesNotFitError,
    matmul_flops,
    measure_step,
    trace_step,
)
from electra_jax.planning.estimate import Assumptions, Estimate, Work, estimate
from electra_jax.planning.network import Range, network_seconds
from electra_jax.planning.search import LAYERS, CompileTrial, best_trial, search
from electra_jax.planning.utilization import Utilization, utilization_of


class StagePlan(NamedTuple):
    """The plan of one stage."""

    config: dict[str, Any]  # the stage's, with the mesh's actual sizes and what a search found
    device: PlannedDevices
    step: CompiledStep
    figures: Estimate
    trials: list[CompileTrial]  # in the order of the search; empty without one
    utilization: Utilization  # assumed shares of the peak
    num_steps: int
    first_step: int  # 0, or that of a later stage


def with_accelerator_settings(config: dict[str, Any]) -> dict[str, Any]:
    """`config` as accelerators should run it: computing in bfloat16, with scanned layers."""
    return config | {
        "model": config["model"] | {"dtype": "bfloat16"},
        "train": config["train"] | {"layers": "scanned"},
    }


def plan_stages(
    config: dict[str, Any],
    device: PlannedDevices,
    assumptions: Assumptions,
    *,
    is_searching: bool,
    is_as_configured: bool,
) -> Iterator[StagePlan]:
    """Plan the stages of a run one by one.

    Args:
      config: a whole pre-training configuration.
      is_searching: look for the execution that fits at least cost, instead of taking the configured one.
      is_as_configured: keep the configured dtype and layers, instead of those that accelerators should use.

    Raises:
      ValueError: the configuration and the devices do not match, a stage does not fit, or a search has no
        limit of memory.
    """
    if is_searching and device.chip.memory is None:
        raise ValueError(
            f"--search: the memory of {device.text} is not known, so that any batch would fit. Give it: "
            "--memory_gib=16, of each device."
        )
    layers = (config["train"]["layers"],)
    if not is_as_configured:
        config, layers = with_accelerator_settings(config), LAYERS
    devices = absent_devices(device.compiled_as)
    for stage in resolve(config).stages:
        best, trials = _with_mesh_sizes(stage.config, devices, is_searching), []
        if is_searching:
            best, step, trials = _search_execution(best, device, devices, layers)
        else:
            step = _measure_configured(best, device, devices)
        num_steps = stage.end - stage.first_step
        used = _utilization(best, device, assumptions)
        recomputation = 1.0
        if assumptions.utilization is None:  # else it is the planned step's own, recomputation included
            recomputation = _recomputation(best, step, devices)
        work = _work(best, device, num_steps, step, used, recomputation)
        figures = estimate(best, work, assumptions)
        yield StagePlan(best, device, step, figures, trials, used, num_steps, stage.first_step)


def _with_mesh_sizes(config: dict[str, Any], devices: list[jax.Device], is_searching: bool) -> dict[str, Any]:
    """`config` with the actual sizes of its mesh, one of which it may leave open by −1."""
    sizes = config["mesh"]
    if is_searching and sizes["tensor"] != -1:
        sizes = sizes | {"data": -1, "fsdp": 1}  # a search chooses these two
    return config | {"mesh": dict(make_mesh(sizes, devices).shape)}


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
    config: dict[str, Any], device: PlannedDevices, devices: list[jax.Device], layers: Sequence[str]
) -> tuple[dict[str, Any], CompiledStep, list[CompileTrial]]:
    """(the best configuration, its compiled step, every trial)."""
    num_shards = len(devices) // config["mesh"]["tensor"]
    trials = list(search(config, num_shards, lambda one: _measure(one, device, devices), layers))
    best = best_trial(config, trials)
    return best.config, best.step, trials


def _measure_configured(
    config: dict[str, Any], device: PlannedDevices, devices: list[jax.Device]
) -> CompiledStep:
    """The compiled step. Raises ValueError, with what to change, where it does not fit."""
    try:
        return _measure(config, device, devices)
    except DoesNotFitError as error:
        raise ValueError(
            f"{describe_execution(config)}: does not fit {device.text}, {error.needed / GIB:.2f} GiB of "
            f"{error.available / GIB:.2f}: {error}. Give --search, or more --config.train.num_microbatches, "
            "--config.train.remat=attention|dense|full, --config.mesh.fsdp=…."
        ) from error


def _measure(config: dict[str, Any], device: PlannedDevices, devices: list[jax.Device]) -> CompiledStep:
    with waiting(f"compiling for {device.text}: {describe_execution(config)}"):
        return measure_step(config, devices, device.chip.memory)


def _utilization(config: dict[str, Any], device: PlannedDevices, assumptions: Assumptions) -> Utilization:
    if assumptions.utilization is not None:
        return Utilization(*assumptions.utilization, "--utilization")
    return utilization_of(device.similar_to, config["model"]["dtype"], config["model"]["position"])


def _recomputation(config: dict[str, Any], step: CompiledStep, devices: list[jax.Device]) -> float:
    """The products of a step ÷ those without config.train.remat."""
    if config["train"]["remat"] == "none":
        return 1.0
    without = config | {"train": config["train"] | {"remat": "none"}}
    with waiting("counting the products of the step without recomputation"):
        traced, *_ = trace_step(without, devices)
    return step.flops / matmul_flops(traced.jaxpr.jaxpr)


def _work(
    config: dict[str, Any],
    device: PlannedDevices,
    num_steps: int,
    step: CompiledStep,
    used: Utilization,
    recomputation: float,
) -> Work:
    chip, memory = device.chip, step.memory
    shards = config["mesh"]["fsdp"] * config["mesh"]["tensor"]
    return Work(
        num_steps=num_steps,
        num_devices=len(step.hosts),
        num_hosts=len(set(step.hosts)),
        peak_flops=chip.peak_of(config["model"]["dtype"]),
        utilization=Range(used.low, used.high),
        network=None if step.collectives is None else network_seconds(step.collectives, step.hosts, chip),
        dollars_per_hour=device.dollars_per_hour,
        state_bytes=(memory.parameters + memory.optimizer) * shards,
        recomputation=recomputation,
    )
