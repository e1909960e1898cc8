"""The Markdown report of a check of an accelerator, compared with tests/golden/accelerator_report.md."""

from electra_jax.benchmarks.accelerator.parts import find_parts
from electra_jax.benchmarks.accelerator.report import report_lines
from electra_jax.benchmarks.accelerator.results import FAILED, Result
from support import accelerator_results


def test_the_report_is_the_recorded_one(golden):
    found = accelerator_results.results()
    parts = find_parts(list(found))
    lines = report_lines(parts, [found[part.name] for part in parts])
    golden.check_text("accelerator_report.md", "\n".join(lines) + "\n", what="the report's tables")


def test_a_report_without_a_device_has_the_rows_of_the_parts():
    parts = find_parts(["device"])
    lines = report_lines(parts, [Result("device", FAILED, "RuntimeError: no GPU\nfound | here")])
    assert lines[0] == "The device is unknown: its part failed."
    assert lines[-1] == "| what JAX sees | failed | 0 | RuntimeError: no GPU found \\| here |"
