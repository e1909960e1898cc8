"""What a plan says, for people and as figures."""

from collections.abc import Sequence
from typing import Any

import jax

from electra_jax.planning.chips import GIB, chip_of
from electra_jax.planning.compiled import CompiledStep
from electra_jax.planning.estimate import Estimate
from electra_jax.planning.search import Trial


def describe(config: dict[str, Any]) -> str:
    """The settings that decide whether a step fits."""
    train, mesh = config["train"], config["mesh"]
    return (
        f"{train['batch_size']:,} rows of {config['data']['sequence_length']} in "
        f"{train['num_microbatches']} microbatch{'es' if train['num_microbatches'] > 1 else ''}, layers "
        f"{train['layers']}, remat {train['remat']}, {config['model']['dtype']}, fsdp {mesh['fsdp']}, "
        f"tensor {mesh['tensor']}"
    )


def report_values(
    config: dict[str, Any],
    device: str,
    step: CompiledStep,
    figures: Estimate,
    trials: Sequence[Trial],
    utilization: float,
    num_steps: int,
) -> dict[str, Any]:
    """Everything as figures: bytes of one device, FLOPs of the step on all of them."""
    return {
        "device": device,
        "settings": _settings(config),
        "bytes": step.memory._asdict() | {"total": step.memory.total, "available": chip_of(device)[1].memory},
        "program_flops": step.flops,
        "compiler_flops_of_one_device": step.compiler_flops,
        "collectives": step.collectives and [each._asdict() for each in step.collectives],
        "utilization": utilization,
        "num_steps": num_steps,
        **figures._asdict(),
        "trials": [
            {"settings": _settings(trial.config), "bytes": _needed(trial), "fits": trial.step is not None}
            for trial in trials
        ],
        "jax_version": jax.__version__,
    }


def report_lines(
    config: dict[str, Any],
    device: str,
    step: CompiledStep,
    figures: Estimate,
    trials: Sequence[Trial],
    utilization: float,
    num_steps: int,
) -> list[str]:
    """The same for people."""
    gib, available = (lambda size: f"{size / GIB:.2f} GiB"), chip_of(device)[1].memory
    kept = "optimizer, average" if config["train"]["ema_decay"] else "optimizer state"
    rows = [
        *zip(("parameters", kept, "batch and metrics", "while it runs", "program"), step.memory, strict=True),
        ("together", step.memory.total),
    ]
    tried = [
        f"{'fits' if trial.step else 'does not fit'}: {describe(trial.config)}: {gib(_needed(trial))}"
        for trial in trials
    ]
    lines = [
        *tried,
        "",
        f"{device}: {describe(config)}",
        "",
        "memory of each device",
        *(f"  {label:20s}{gib(size):>12s}" for label, size in rows),
    ]
    if available is not None:
        lines.append(f"  {'left':20s}{gib(available - step.memory.total):>12s} of {gib(available)}")
    again = step.flops / figures.model_flops - 1
    lines += [
        "",
        f"FLOPs of a step: {figures.model_flops:.3g} of the model; {step.flops:.3g} in the program's matrix "
        f"products ({again:+.0%}: computed again, and what the model's count leaves out)",
    ]
    if step.compiler_flops is not None:
        lines.append(f"  the compiler counts {step.compiler_flops:.3g} on one device, bodies of loops once")
    return [
        *lines,
        *_collective_lines(step),
        "",
        f"at {utilization:.0%} of the peak, an assumption: {figures.step_seconds:.3g} s a step, "
        f"{figures.tokens_per_second:,.0f} tokens/s, {num_steps:,} steps in {figures.days:,.1f} days, "
        f"${figures.dollars:,.0f}",
        f"save a checkpoint every {figures.checkpoint_every:,} steps",
        "give: " + " ".join(f"--config.{key}={value}" for key, value in _settings(config).items()),
    ]


def _settings(config: dict[str, Any]) -> dict[str, Any]:
    keys = (
        "model.dtype",
        "train.layers",
        "train.remat",
        "train.batch_size",
        "train.num_microbatches",
        "mesh.fsdp",
    )
    return {key: config[key.partition(".")[0]][key.partition(".")[2]] for key in keys}


def _needed(trial: Trial) -> int:
    return trial.refusal.needed if trial.step is None else trial.step.memory.total


def _collective_lines(step: CompiledStep) -> list[str]:
    if step.collectives is None:
        return ["communication: the compiler cannot print this program"]
    return [
        f"communication of a step, results on each device{'' if step.collectives else ': none'}",
        *(
            f"  {each.number:6d} × {each.kind} {each.dtype}, {each.num_bytes / GIB:.3f} GiB together"
            for each in step.collectives
        ),
    ]
