"""A stage's plan as lines for people, and as figures for --json."""

from typing import Any

import jax

from electra_jax.distributed.chips import GIB
from electra_jax.planning.compiled import CompiledStep
from electra_jax.planning.search import CompileTrial
from electra_jax.planning.stages import StagePlan, describe_execution

# The settings that a plan recommends.
SETTINGS = (
    "model.dtype",
    "train.layers",
    "train.remat",
    "train.batch_size",
    "train.num_microbatches",
    "mesh.fsdp",
)


def report_values(plan: StagePlan) -> dict[str, Any]:
    """All figures of a plan: bytes on each device, FLOPs of the step on all devices."""
    step = plan.step
    available = plan.device.chip.memory
    return {
        "device": plan.device.text,
        "compiled_as": plan.device.compiled_as,
        "settings": _settings(plan.config),
        "bytes": step.memory._asdict() | {"total": step.memory.total, "available": available},
        "program_flops": step.flops,
        "compiler_flops_of_one_device": step.compiler_flops,
        "collectives": step.collectives and [each._asdict() for each in step.collectives],
        "utilization": plan.utilization,
        "num_steps": plan.num_steps,
        **plan.figures._asdict(),
        "trials": [_trial_values(trial) for trial in plan.trials],
        "jax_version": jax.__version__,
    }


def report_lines(plan: StagePlan) -> list[str]:
    """A plan for people."""
    figures, peak = plan.figures, "the peak"
    if plan.config["model"]["dtype"] == "float32":
        peak = "bfloat16's peak (float32 takes several times as long)"
    return [
        *map(_trial_line, plan.trials),
        "",
        f"{plan.device.text}: {describe_execution(plan.config)}",
        "",
        *_memory_lines(plan),
        "",
        *_flops_lines(plan),
        *_collective_lines(plan.step),
        "",
        f"at {plan.utilization:.0%} of {peak}, an assumption: {figures.step_seconds:.3g} s a step, "
        f"{figures.tokens_per_second:,.0f} tokens/s, {plan.num_steps:,} steps in {figures.days:,.1f} days, "
        f"${figures.dollars:,.0f}",
        f"save a checkpoint every {figures.checkpoint_every:,} steps",
        "give: " + " ".join(f"--config.{key}={value}" for key, value in _settings(plan.config).items()),
    ]


def _settings(config: dict[str, Any]) -> dict[str, Any]:
    sections_and_names = (key.split(".") for key in SETTINGS)
    return {f"{section}.{name}": config[section][name] for section, name in sections_and_names}


def _trial_values(trial: CompileTrial) -> dict[str, Any]:
    return {
        "settings": _settings(trial.config),
        "bytes": trial.bytes_needed,
        "fits": trial.step is not None,
    }


def _trial_line(trial: CompileTrial) -> str:
    outcome = "fits" if trial.step else "does not fit"
    return f"{outcome}: {describe_execution(trial.config)}: {_gib(trial.bytes_needed)}"


def _memory_lines(plan: StagePlan) -> list[str]:
    memory, available = plan.step.memory, plan.device.chip.memory
    optimizer = "optimizer, average" if plan.config["train"]["ema_decay"] else "optimizer state"
    labels = ("parameters", optimizer, "batch and metrics", "while it runs", "program")
    rows = [*zip(labels, memory, strict=True), ("together", memory.total)]
    lines = ["memory of each device", *(f"  {label:20s}{_gib(size):>12s}" for label, size in rows)]
    if available is not None:
        lines.append(f"  {'left':20s}{_gib(available - memory.total):>12s} of {_gib(available)}")
    return lines


def _flops_lines(plan: StagePlan) -> list[str]:
    step, model_flops = plan.step, plan.figures.model_flops
    excess = step.flops / model_flops - 1
    lines = [
        f"FLOPs of a step: {model_flops:.3g} of the model; {step.flops:.3g} in the program's matrix "
        f"products ({excess:+.0%}: recomputation, and products that the model's count leaves out)"
    ]
    if step.compiler_flops is not None:
        lines.append(f"  the compiler counts {step.compiler_flops:.3g} on one device, bodies of loops once")
    return lines


def _collective_lines(step: CompiledStep) -> list[str]:
    if step.collectives is None:
        return ["communication: the compiler cannot print this program"]
    lines = [f"communication of a step, results on each device{'' if step.collectives else ': none'}"]
    for each in step.collectives:
        lines.append(
            f"  {each.number:6d} × {each.kind} {each.dtype}, {each.num_bytes / GIB:.3f} GiB together"
        )
    return lines


def _gib(size: int) -> str:
    return f"{size / GIB:.2f} GiB"
