"""The results of all parts as Markdown tables."""

from typing import Any

from electra_jax.benchmarks.accelerator.parts import PARTS, Part
from electra_jax.benchmarks.accelerator.results import NOT_RUN, PASSED, Result
from electra_jax.benchmarks.accelerator.speed import CASES
from electra_jax.benchmarks.accelerator.torch_speed import VARIANTS
from electra_jax.distributed.chips import GIB

NONE = "–"
FORMS = {
    "plain": "content alone",
    "gather": "by gather",
    "skew": "products and shifts (`train.attention=plain`)",
    "pallas": "kernels (`train.attention=pallas`)",
}
TITLES = {f"step_{case}": part.title for part in PARTS if (case := part.case)}


def report_lines(parts: list[Part], results: list[Result]) -> list[str]:
    """The report: the device, a row for each part, then the figures."""
    found = {part.name: result for part, result in zip(parts, results, strict=True)}
    device = found["device"].figures
    sections = [
        device_lines(device),
        part_lines(parts, results),
        learning_lines(found.get("learning")),
        speed_lines(found, device),
        peer_lines(found, device.get("num_devices", 1)),
        kernel_lines(found.get("kernels")),
    ]
    lines = []
    for section in sections:
        lines += [*section, ""] if section else []
    return lines[:-1]


def device_lines(device: dict[str, Any]) -> list[str]:
    """Card, driver, versions and date."""
    if not device:
        return ["The device is unknown: its part failed."]
    conditions = device["conditions"]
    named = ", ".join(f"{name} {version}" for name, version in conditions["versions"].items())
    described = conditions["devices"]
    if device["platform"] == "cpu":
        described = f"{device['processor']}, {device['num_processors']} cores"
    rows = [
        ("date", device["date"]),
        ("device", described),
        *(("card, driver, memory, power limit", line) for line in device["gpus"]),
        ("platform", conditions["platform_version"]),
        ("memory that a program can use", _gib(device["memory_limit"])),
        ("peak in bfloat16", _teraflops(device["peak_flops"])),
        ("fastest product measured, bfloat16", _teraflops(device.get("product_flops"))),
        ("versions", named),
        ("commit", str(conditions["commit"])),
    ]
    return _table(("", ""), rows)


def part_lines(parts: list[Part], results: list[Result]) -> list[str]:
    """A row for each part: its result and what failed."""
    rows = []
    for part, result in zip(parts, results, strict=True):
        failed = [
            f"{check['name']}: got {check['got']}, expected {check['expected']}"
            for check in result.failed_checks
        ]
        remarks = [result.note] if result.note else []
        if not failed and result.checks and result.status in (PASSED, NOT_RUN):
            number = len(result.checks)
            remarks = [f"{number} check{'s' if number > 1 else ''} passed", *remarks]
        text = ". ".join([*failed, *remarks]) or NONE
        rows.append((part.title, result.status, f"{result.seconds:.0f}", _one_line(text)))
    return _table(("part", "result", "seconds", ""), rows)


def learning_lines(result: Result | None) -> list[str]:
    """Losses of some steps beside the recorded ones."""
    if result is None or "losses" not in result.figures:
        return []
    got, recorded = result.figures["losses"], result.figures["recorded"]
    places = [place for place in recorded["loss"] if place in ("1", "5", "20") or place.endswith("00")]
    rows = []
    for name in recorded:
        pairs = [
            f"{got[name].get(place, float('nan')):.5f} / {recorded[name][place]:.5f}" for place in places
        ]
        rows.append((name, *pairs))
    made = result.figures["made"]
    header = ("here / recorded", *(f"step{'s' if '-' in place else ''} {place}" for place in places))
    note = f"Recorded on {made['date']} on a CPU, {made['processor']}, with jax {made['versions']['jax']}."
    return [*_table(header, rows), "", note]


def speed_lines(found: dict[str, Result], device: dict[str, Any]) -> list[str]:
    """A row for each training step: speed, utilization, times and memory."""
    plan = found["plan"].figures if "plan" in found else {}
    rows = []
    for case in CASES:
        figures = found[f"step_{case}"].figures if f"step_{case}" in found else {}
        if "tokens_per_second" not in figures:
            continue
        peak = figures["peak_bytes"]
        rows.append(
            (
                _title(case, figures),
                f"{figures['batch_size']:,}",
                f"{figures['tokens_per_second']:,.0f}",
                _utilization(figures),
                _milliseconds(figures["step_seconds"]),
                _milliseconds(figures["compute_seconds"]),
                _milliseconds(figures["input_wait_seconds"]),
                _gib(peak) if peak else f"{_gib(figures['peak_host_bytes'])}, whole process",
                _gib(figures["compiled_bytes"]),
                _gib(plan.get(case)),
            )
        )
    if not rows:
        return []
    of = "the chip's peak" if device.get("peak_flops") else "the fastest product measured"
    header = (
        "training step, bfloat16",
        "rows",
        "tokens/s and device",
        f"model FLOPs, of {of}",
        "step, ms",
        "batch on device, ms",
        "wait for input, ms",
        "peak memory",
        "compiled program",
        "plan predicts",
    )
    return _table(header, rows)


def _utilization(figures: dict[str, Any]) -> str:
    """The share of the peak; with the product's speed, which differs from start to start, where that is the
    measure."""
    share = f"{figures['utilization']:.1%}"
    is_product = figures["utilization_of"] == "product"
    return f"{share} of {_teraflops(figures['utilization_peak'])}" if is_product else share


def peer_lines(found: dict[str, Result], num_devices: int) -> list[str]:
    """Our step beside PyTorch's in each variant: tokens a second, both on a batch that is on the device."""
    torch = found["torch"].figures if "torch" in found else {}
    rows = []
    for case in CASES:
        figures = found[f"step_{case}"].figures if f"step_{case}" in found else {}
        peers = [torch.get(f"{case} {variant}", {}) for variant in VARIANTS]
        if "compute_seconds" not in figures or not any(peers):
            continue
        ours = figures["tokens_per_second"] * figures["step_seconds"] / figures["compute_seconds"]
        shown = [_peer(peer, figures["batch_size"] // num_devices) for peer in peers]
        best = max((peer.get("tokens_per_second", 0.0) for peer in peers), default=0.0)
        rows.append((_title(case, figures), f"{ours:,.0f}", *shown, f"{ours / best:.2f}" if best else NONE))
    if not rows:
        return []
    header = (
        "tokens/s and device",
        "electra_jax",
        *(f"PyTorch {name}" for name in VARIANTS),
        "ratio to the best",
    )
    return _table(header, rows)


def _peer(peer: dict[str, Any], our_rows: int) -> str:
    if "tokens_per_second" not in peer:
        return peer.get("missing", "not measured in the time limit")
    rows = peer["batch_size"]
    return f"{peer['tokens_per_second']:,.0f}" + (f" ({rows:,} rows)" if rows != our_rows else "")


def kernel_lines(result: Result | None) -> list[str]:
    """The largest difference of each kernel, and how long each form of DeBERTa's attention takes."""
    if result is None or not result.figures.get("kernels"):
        return []
    rows = []
    for name, gaps in result.figures["kernels"].items():
        worst = max(gaps, key=gaps.get)
        rows.append((name, f"{gaps[worst]:.1e}", worst))
    lines = _table(("kernel", "largest relative difference", "of"), rows)
    attention = result.figures.get("attention")
    return [*lines, "", *attention_lines(attention)] if attention else lines


def attention_lines(figures: dict[str, Any]) -> list[str]:
    """Time and temporary memory of a layer of attention, by form."""
    end = "_milliseconds"
    forms = [name.removesuffix(end) for name in figures if name.endswith(end)]
    rows = [
        (FORMS[form], f"{figures[form + end]:.3f}", f"{figures[f'{form}_temporary_mib']:,.0f}")
        for form in forms
    ]
    shape = f"{figures['batch_size']} × {figures['length']}"
    return _table((f"attention, forward and backward, {shape}, bfloat16", "ms", "temporary MiB"), rows)


def _title(case: str, figures: dict[str, Any]) -> str:
    title = TITLES[f"step_{case}"].removeprefix("training step of ")
    if figures.get("is_reduced"):
        title += (
            f" ({' and '.join(map(str, figures['layers']))} layers, vocabulary {figures['vocab_size']:,})"
        )
    return title


def _one_line(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def _gib(size: float | None) -> str:
    return f"{size / GIB:.2f} GiB" if size else NONE


def _teraflops(flops: float | None) -> str:
    return f"{flops / 1e12:,.2f} TFLOP/s" if flops else NONE


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:,.1f}"


def _table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    lines = [header, tuple("---" for _ in header), *rows]
    return ["| " + " | ".join(cells) + " |" for cells in lines]
