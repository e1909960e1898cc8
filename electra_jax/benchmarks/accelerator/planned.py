"""The memory that `python -m electra_jax.plan` predicts for this device, beside what the steps needed.

The step of each case is compiled for an absent device of the same kind, as `plan` does, with as many rows on
each device. The device itself is left alone.
"""

from electra_jax.benchmarks.accelerator.parts import Job
from electra_jax.benchmarks.accelerator.results import CannotRunError
from electra_jax.benchmarks.accelerator.speed import CASES, make_config
from electra_jax.distributed.absent_devices import absent_devices
from electra_jax.planning.compiled import measure_step

# Chip → what follows it in --device: the smallest topology of TPUs for which their compiler can be asked.
SMALLEST = {"v4": "2x2x1", "v5e": "1x1", "v5p": "2x2x1", "v6e": "1x1", "tpu7x": "1x1x1"}


def run_part(job: Job) -> None:
    """Record the planned bytes of every case that was measured."""
    device = job.device
    chip = "cpu" if device["platform"] == "cpu" else device["chip"]
    if chip is None:
        raise CannotRunError(f"plan does not know the device {device['device_kind']!r}.")
    name = f"{chip}:{SMALLEST.get(chip, 1)}"
    try:
        devices = absent_devices(name)
    except ValueError as error:
        raise CannotRunError(str(error)) from error
    job.recorder.add(planned_for=name)
    for case_name, case in CASES.items():
        found = job.result_of(f"step_{case_name}")
        rows = found and found.figures.get("batch_size")
        if not rows:
            job.recorder.remark(f"{case_name} was not measured.")
            continue
        config = make_config(case, device, rows // device["num_devices"] * len(devices))
        job.recorder.add(**{case_name: measure_step(config, devices, None).memory.total})
