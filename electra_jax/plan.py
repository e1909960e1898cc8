"""Plan a run on devices that you do not have yet: `bash launch/compile_only.sh plan --config=…
--device=v5e:4x4 [--search]`.

    bash launch/compile_only.sh plan --config=configs/electra.py:size=base --device=v5e:4x4 --search
    bash launch/compile_only.sh plan --config=configs/electra.py:size=base --device=h100:8 --config.train.num_microbatches=8

compiles the very training step that `pretrain` would run, for that device, and says what it needs of its
memory, what it computes and communicates, and estimates time and money from that. Devices: TPUs by topology
(v5e:4x4, v5e:16x16, v5p:2x2x2, v6e:2x4), the GPUs of one host (h100:8), parts of this machine (cpu:8). The
compilers for TPUs and GPUs are libraries of their own, which launch/compile_only.sh installs aside; for cpu:8
`python -m electra_jax.plan` does.

Memory is what the compiler says, of the versions installed: where a step does not fit, a TPU's compiler
refuses it here as it would there. Time is an estimate: model FLOPs divided by the peak and by --utilization,
an assumption until your own run says better (model_flops_utilization in its metrics.jsonl).

--search looks for the settings with which the configured batch fits at least cost: the fewest microbatches,
nothing computed again, else with more of it (train.remat), else with parameters cut over more devices
(mesh.fsdp). It goes on to the first that does not fit. Layers are scanned and computation is in bfloat16, as
should be on these devices, unless --as_configured is given. A step takes minutes to compile, a search three
to ten steps.
"""

import json
import sys
from pathlib import Path
from typing import Any

import jax
from absl import app, flags
from tqdm import tqdm

from electra_jax.configuration import flags as command_line
from electra_jax.configuration.flags import define_flags, parse_flags
from electra_jax.configuration.resolve import resolve
from electra_jax.distributed.absent_devices import absent_devices
from electra_jax.planning.chips import CHIPS, GIB, chip_of, price_of
from electra_jax.planning.compiled import CompiledStep, DoesNotFitError, Memory, measure_step
from electra_jax.planning.estimate import Estimate, estimate
from electra_jax.planning.report import describe, report_lines, report_values
from electra_jax.planning.search import Trial, chosen, search

_DEVICE = flags.DEFINE_string(
    "device", None, f"Devices to plan for: {', '.join(CHIPS)} with a topology or a number."
)
_SEARCH = flags.DEFINE_boolean(
    "search", False, "Look for the settings with which the batch fits at least cost."
)
_AS_CONFIGURED = flags.DEFINE_boolean(
    "as_configured", False, "Leave config.model.dtype and config.train.layers as they are."
)
_UTILIZATION = flags.DEFINE_float(
    "utilization",
    0.35,
    "Share of the peak that goes into model FLOPs: an assumption. 0.35 was "
    "published for GPT-2 of 345M on TPU v3; no ELECTRA trainer has published more than 0.31.",
    lower_bound=0.01,
    upper_bound=1.0,
)
_PRICES = flags.DEFINE_string("prices", "configs/prices.json", "File with US dollars an hour and chip.")
_HOURS = flags.DEFINE_float(
    "hours_between_stops",
    6.0,
    "How long a device stays, for the checkpoint interval: an assumption.",
    lower_bound=0.01,
)
_SAVE_RATE = flags.DEFINE_float(
    "save_rate",
    0.5,
    "GiB a second in which state is written, all together: an assumption.",
    lower_bound=0.001,
)
_JSON = flags.DEFINE_string("json", None, "File that takes the figures as JSON.")


def plan(
    config: dict[str, Any], devices: list[jax.Device], available: int | None, *, is_searching: bool
) -> tuple[dict[str, Any], CompiledStep, list[Trial]]:
    """(configuration, its compiled step, all that a search tried); `available` bytes a device.

    Raises: ValueError: the configuration does not fit the devices, or nothing does. DoesNotFitError: this one
      does not.
    """
    attempt = lambda tried: measure_step(tried, devices, available)
    if not is_searching:
        return config, attempt(config), []
    trials = []
    with tqdm(unit="program", desc="compiling", leave=False) as bar:
        for trial in search(config, len(devices), attempt):
            trials.append(trial)
            bar.set_postfix_str(describe(trial.config))
            bar.update()
    best = chosen(config, trials)
    return best.config, best.step, trials


def estimate_stage(
    config: dict[str, Any], device: str, num_steps: int, num_devices: int, memory: Memory
) -> Estimate:
    """With the assumptions of the flags. Raises OSError or ValueError where --prices has no price."""
    name, chip = chip_of(device)
    state_bytes = (memory.parameters + memory.optimizer) * config["mesh"]["fsdp"] * config["mesh"]["tensor"]
    return estimate(
        config,
        num_steps=num_steps,
        num_devices=num_devices,
        peak_flops=chip.peak_flops,
        utilization=_UTILIZATION.value,
        dollars_per_hour=price_of(_PRICES.value, name),
        hours_between_stops=_HOURS.value,
        save_seconds=state_bytes / (_SAVE_RATE.value * GIB),
    )


def plan_stages(config: dict[str, Any], device: str) -> list[dict[str, Any]]:
    """Plan every stage of the run, and print what there is to say; the same as figures.

    Raises:
      ValueError, OSError, DoesNotFitError: see `plan` and `estimate_stage`.
    """
    available = chip_of(device)[1].memory
    devices, values = absent_devices(device), []
    for stage in resolve(config).stages:
        best, step, trials = plan(stage.config, devices, available, is_searching=_SEARCH.value)
        num_steps = stage.end - stage.first_step
        figures = estimate_stage(best, device, num_steps, len(devices), step.memory)
        arguments = best, device, step, figures, trials, _UTILIZATION.value, num_steps
        print("\n".join(report_lines(*arguments)))
        values.append(report_values(*arguments))
    return values


def main(argv: list[str]) -> None:
    """Command line of this module."""
    del argv
    config, device = flags.FLAGS.config.to_dict(), _DEVICE.value
    if not _AS_CONFIGURED.value:
        config["model"]["dtype"], config["train"]["layers"] = "bfloat16", "scanned"
    try:
        if device is None:
            raise ValueError("--device is missing: for example --device=v5e:4x4. --help has more.")
        values = plan_stages(config, device)
    except DoesNotFitError as error:
        sys.exit(
            f"{describe(config)}: does not fit {device}, {error.needed / GIB:.2f} GiB of "
            f"{error.available / GIB:.2f}: {error}. Give --search, or more --config.train.num_microbatches, "
            "--config.train.remat=dense|full, --config.mesh.fsdp=…."
        )
    except (ValueError, OSError) as error:
        sys.exit(str(error))
    if _JSON.value:
        Path(_JSON.value).write_text(json.dumps({"stages": values}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    define_flags(has_workdir=False)
    flags.adopt_module_key_flags(command_line)
    app.run(main, flags_parser=parse_flags)
