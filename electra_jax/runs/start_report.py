"""What a run tells its user before the first step: devices, precision, data and memory."""

from collections.abc import Sequence
from typing import Any

import jax

from electra_jax.configuration.stages import schedule_span
from electra_jax.distributed.chips import GIB, chip_of
from electra_jax.runs.data_passes import examples_read
from electra_jax.runs.inputs import RunInputs, StageInputs
from electra_jax.runs.provenance import describe_devices
from electra_jax.training.schedules import decay_length
from electra_jax.training.step_memory import Memory, state_bytes

# T5 (Raffel et al. 2020, section 3.4.2) lost little by 64 passes over the same text and much by 256. BERT was
# trained with 40 (Devlin et al. 2019, appendix A.2).
MANY_PASSES, PASSES_OF_BERT = 100, 40
PRECISION = {
    "float32": "float32 everywhere",
    "bfloat16": "bfloat16 matrix products; parameters, optimizer and losses in float32",
}


def start_lines(inputs: RunInputs, abstract_state: Any) -> list[str]:
    """Lines on devices, precision, steps, learning rate, data and the size of the state; warnings after the
    data."""
    config, mesh = inputs.config, inputs.mesh
    processes = f", {jax.process_count()} processes" if jax.process_count() > 1 else ""
    shape = ", ".join(f"{name} {size}" for name, size in mesh.shape.items())
    return [
        f"devices: {describe_devices()}{processes}; mesh: {shape}",
        f"precision: {PRECISION[config['model']['dtype']]}",
        *(_steps_line(stage) for stage in inputs.stages),
        *_rate_lines(inputs.stages),
        *_data_lines(inputs.stages),
        f"state: {_gib(sum(state_bytes(abstract_state)))} on each device, parameters and optimizer",
    ]


def memory_line(memory: Memory, device_kind: str) -> str:
    """What a compiled step needs, and of how much if the device is a known chip."""
    chip = chip_of(device_kind)
    available = f" of {_gib(chip.memory)}" if chip and chip.memory else ""
    return (
        f"expected memory: {_gib(memory.total)}{available} on each device by the compiler's count, "
        f"{_gib(memory.temporary)} of it while a step runs"
    )


def _steps_line(stage: StageInputs) -> str:
    train, length = stage.config["train"], stage.config["data"]["sequence_length"]
    tokens, first = train["batch_size"] * length, stage.first_step
    return (
        f"steps {first + 1:,} … {stage.end:,}: {train['batch_size']:,} rows of {length:,} tokens = "
        f"{tokens:,} tokens a step, {(stage.end - first) * tokens:,} in all"
    )


def _rate_lines(stages: Sequence[StageInputs]) -> list[str]:
    """A line for each learning-rate schedule."""
    lines = []
    for stage in stages:
        first, end = schedule_span(stage.config, stage.first_step)
        if first != stage.first_step:
            continue
        optimizer = stage.config["optimizer"]
        parts = [
            f"{optimizer['learning_rate']:g} at its peak",
            f"{optimizer['schedule']} over the steps {first + 1:,} … {end:,}",
            f"{optimizer['warmup_steps']:,} of warm-up",
        ]
        if decay_steps := decay_length(optimizer, end - first):
            parts.append(f"the last {decay_steps:,} of decay to {optimizer['final_share']:g} of the peak")
        lines.append(f"learning rate: {', '.join(parts)}; {optimizer['name']}")
    return lines


def _data_lines(stages: Sequence[StageInputs]) -> list[str]:
    """For each dataset how often the run reads its rows, and a warning where that is too often."""
    num_steps = stages[-1].end
    read = examples_read(stages, num_steps)
    lines = [
        f"data: {num_steps:,} steps = {_passes(examples / rows)} over the {rows:,} rows of {path}"
        for path, (examples, rows) in read.items()
    ]
    most = max(examples / rows for examples, rows in read.values())
    if most > MANY_PASSES:
        lines.append(
            f"WARNING: {_passes(most)} over the same rows. Beyond {MANY_PASSES} they teach little that is "
            f"new; BERT made {PASSES_OF_BERT}, which would be --config.train.num_steps="
            f"{max(1, round(num_steps * PASSES_OF_BERT / most))}. Or build a dataset from more text."
        )
    return lines


def _passes(number: float) -> str:
    if number < 1:
        return f"{number:.2g} of a pass"
    return f"{number:,.0f} passes" if number >= 10 else f"{number:.1f} passes"


def _gib(size: int) -> str:
    return f"{size / GIB:.2f} GiB" if size >= 0.1 * GIB else f"{size / 2**20:.1f} MiB"
