"""A stage's plan as lines for people, and as figures for --json."""

from typing import Any

import jax

from electra_jax.configuration.stages import KEYS
from electra_jax.distributed.chips import GIB
from electra_jax.planning.collectives import Collective
from electra_jax.planning.estimate import FIXED_SECONDS, LEAST_SECONDS
from electra_jax.planning.network import LINK_SHARES, Range, hosts_of
from electra_jax.planning.search import CompileTrial
from electra_jax.planning.stages import StagePlan, describe_execution

MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0
# The settings that a plan recommends. All of the mesh: a recipe may have other defaults than the common ones.
SETTINGS = (
    "model.dtype",
    "train.layers",
    "train.remat",
    "train.batch_size",
    "train.num_microbatches",
    "mesh.data",
    "mesh.fsdp",
    "mesh.tensor",
)
BATCH = "train.batch_size"  # a stage has its own, which no plan recommends to change


def report_values(plan: StagePlan) -> dict[str, Any]:
    """All figures of a plan: bytes on each device, FLOPs of the step on all devices, ranges as pairs."""
    step = plan.step
    available = plan.device.chip.memory
    return {
        "device": plan.device.text,
        "compiled_as": plan.device.compiled_as,
        "first_step": plan.first_step,
        "settings": _settings(plan.config),
        "bytes": step.memory._asdict() | {"total": step.memory.total, "available": available},
        "program_flops": step.flops,
        "compiler_flops_of_one_device": step.compiler_flops,
        "collectives": step.collectives and [_collective_values(each, plan) for each in step.collectives],
        "peak_flops": plan.device.chip.peak_of(plan.config["model"]["dtype"]),
        "utilization": plan.utilization._asdict(),
        "num_steps": plan.num_steps,
        "num_hosts": len(set(step.hosts)),
        "price_source": plan.device.price_source,
        **plan.figures._asdict(),
        "trials": [_trial_values(trial) for trial in plan.trials],
        "jax_version": jax.__version__,
    }


def report_lines(plan: StagePlan) -> list[str]:
    """A plan for people."""
    return [
        *map(_trial_line, plan.trials),
        "",
        f"{plan.device.text}: {describe_execution(plan.config)}",
        "",
        *_memory_lines(plan),
        "",
        *_flops_lines(plan),
        *_collective_lines(plan),
        "",
        *_time_lines(plan),
        "",
        *_settings_lines(plan),
    ]


def _settings_lines(plan: StagePlan) -> list[str]:
    """What to give pretrain. A flag sets the first stage; those after it inherit what they do not change."""
    settings = _settings(plan.config)
    as_flags = lambda keys: " ".join(f"--config.{key}={settings[key]}" for key in keys)
    fixed = [key for key in settings if key not in KEYS]
    if plan.first_step == 0:
        lines = [f"give pretrain, or a launcher after --: {as_flags(settings)}"]
    else:
        own = ", ".join(f"'{key}': {settings[key]!r}" for key in settings if key in KEYS and key != BATCH)
        lines = [
            f"for the stage from step {plan.first_step} on, in config.stages: {own}",
            f"planned with these flags, which hold for the whole run: {as_flags(fixed)}",
        ]
    if plan.config["stages"]:
        *most, last = fixed
        lines.append(
            f"{', '.join(most)} and {last} are the same in all stages: take those of the stage that needs "
            "most memory, then plan again with them and --as_configured."
        )
    return lines


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


def _collective_values(each: Collective, plan: StagePlan) -> dict[str, Any]:
    devices, hosts = hosts_of(each, plan.step.hosts, plan.device.chip)
    return {key: value for key, value in each._asdict().items() if key != "group"} | {
        "num_devices": devices,
        "num_hosts": hosts,
    }


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
    excess = round(100 * (step.flops / model_flops - 1))  # a whole number, which is never −0
    more = f"{excess:+d}%: recomputation, and products that the model's count leaves out"
    lines = [
        f"FLOPs of a step: {model_flops:.3g} of the model; {step.flops:.3g} in the program's matrix products "
        f"({more if excess else 'the same, to one percent'})"
    ]
    if step.compiler_flops is not None:
        lines.append(f"  the compiler counts {step.compiler_flops:.3g} on one device, bodies of loops once")
    return lines


def _collective_lines(plan: StagePlan) -> list[str]:
    step = plan.step
    if step.collectives is None:
        return ["communication: the compiler cannot print this program"]
    lines = [f"communication of a step, results on each device{'' if step.collectives else ': none'}"]
    for each in step.collectives:
        devices, hosts = hosts_of(each, step.hosts, plan.device.chip)
        among = f"{devices} devices" + (f" on {hosts} hosts" if hosts > 1 else "")
        size = f"{_gib(each.num_bytes)} together"
        lines.append(f"  {each.number:6d} × {each.kind} {each.dtype}, {size}, among {among}")
    return lines


def _time_lines(plan: StagePlan) -> list[str]:
    """Time, price and input rate, all of them estimates."""
    figures, used, chip = plan.figures, plan.utilization, plan.device.chip
    dtype = plan.config["model"]["dtype"]
    peak = f"{chip.peak_of(dtype) / 1e12:,.4g} TFLOP/s a device"
    assumed = f"{_words(Range(used.low, used.high), '{:.0%}'.format)} of {dtype}'s peak, {peak}"
    lines = ["time, an estimate", f"  computation: {assumed} ({used.source})"]
    if figures.recomputation > 1:
        remat = plan.config["train"]["remat"]
        lines.append(f"  times {figures.recomputation:.2f}: the products that remat {remat} repeats")
    if figures.step_seconds is None:
        seconds = figures.compute_seconds.low
        return [
            *lines,
            f"  not meaningful: too small to estimate. At {used.high:.0%} of the peak a step computes for "
            f"{seconds:.1g} s; below {LEAST_SECONDS:g} s starting it and waiting for others take longer.",
            f"  a step takes at least about {_words(FIXED_SECONDS, _seconds)}",
        ]
    return [
        *lines,
        *_network_line(plan),
        f"  {_words(figures.step_seconds, _seconds)} a step, "
        f"{_words(figures.tokens_per_second, _count)} tokens/s",
        f"  {plan.num_steps:,} steps in {_words(figures.hours, lambda hours: _duration(hours * HOUR))}",
        *_price_lines(plan),
        f"input: {_words(figures.rows_per_second, _count)} rows/s, "
        f"{_words(figures.bytes_per_second, _megabytes)} MB/s on {_each_host(plan)}",
        f"save a checkpoint every {figures.checkpoint_every:,} steps",
    ]


def _price_lines(plan: StagePlan) -> list[str]:
    figures, hourly = plan.figures, plan.device.dollars_per_hour
    if not hourly.high:
        return []
    return [
        f"price: {_words(figures.dollars, _dollars)}, or {_words(figures.dollars_per_day, _dollars)} a day, "
        f"at {_words(hourly, '${:,.2f}'.format)} an hour and device",
        f"  {plan.device.price_source}",
    ]


def _network_line(plan: StagePlan) -> list[str]:
    chip, seconds = plan.device.chip, plan.figures.network_seconds
    if seconds is None:
        return ["  network: not known, and not part of the time"]
    if len(plan.step.hosts) == 1:
        return []
    speed = f"{chip.link / 1e9:,.4g} GB/s a device"
    if len(set(plan.step.hosts)) > 1 and chip.between_hosts is not None:
        speed += f", {chip.between_hosts / 1e9:,.3g} GB/s between hosts (--network_gbps)"
    best, worst = LINK_SHARES
    limit = "; it is the limit" if seconds.low > plan.figures.compute_seconds.low else ""
    return [
        f"  network: {_words(seconds, _seconds)} of a step at {worst:.0%} to {best:.0%} of {speed}; at best "
        f"hidden behind the computation{limit}"
    ]


def _each_host(plan: StagePlan) -> str:
    number = len(set(plan.step.hosts))
    return f"each of {number} hosts" if number > 1 else "the host"


def _words(values: Range, write) -> str:
    """A range as text, one value where both ends read alike."""
    low, high = (write(value) for value in values)
    return low if low == high else f"{low} to {high}"


def _seconds(value: float) -> str:
    return f"{value:.2g} s" if value >= 0.1 else f"{value * 1e3:.2g} ms"


def _duration(seconds: float) -> str:
    """In the largest unit of which there are two: "95 minutes", "31 hours", "4.2 days"."""
    units = ((DAY, "days"), (HOUR, "hours"), (MINUTE, "minutes"), (1.0, "seconds"))
    size, name = next((unit for unit in units if seconds >= 2 * unit[0]), units[-1])
    return f"{seconds / size:,.2g} {name}" if seconds / size < 100 else f"{seconds / size:,.0f} {name}"


def _count(value: float) -> str:
    return f"{float(f'{value:.2g}'):,.0f}" if value >= 10 else f"{value:.2g}"


def _dollars(value: float) -> str:
    return f"${float(f'{value:.2g}'):,.0f}" if value >= 10 else f"${value:.2f}"


def _megabytes(value: float) -> str:
    return f"{value / 1e6:,.2g}"


def _gib(size: int) -> str:
    """In GiB, or in MiB or KiB where two digits of it show little."""
    if not size:
        return "0"
    unit, name = next(
        (one for one in ((GIB, "GiB"), (2**20, "MiB")) if abs(size) >= one[0] / 10), (2**10, "KiB")
    )
    return f"{size / unit:.2f} {name}"
