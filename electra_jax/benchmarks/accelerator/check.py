"""The whole check of an accelerator: all parts, report.json and report.md."""

import dataclasses

from data_pipelines.command_errors import resumable
from data_pipelines.dataset_info import load_dataset_info
from data_pipelines.json_files import write_json
from data_pipelines.whole_files import write_text
from electra_jax.benchmarks.accelerator.parts import find_parts
from electra_jax.benchmarks.accelerator.report import report_lines
from electra_jax.benchmarks.accelerator.runner import Settings, is_failure, run_parts


def check_accelerator(names: list[str], settings: Settings) -> None:
    """Run the parts of these names ([]: all), print the report, and write it.

    Raises:
      ValueError: an unknown part or a wrong dataset, before anything runs; or, at the end, parts failed.
      OSError: the dataset or the directory cannot be used.
    """
    parts = find_parts(names)
    if settings.data:
        load_dataset_info(settings.data)
    with resumable():  # parts that have passed are kept
        results = run_parts(parts, settings)
    lines = report_lines(parts, results)
    directory = settings.directory
    write_json(directory / "report.json", {"parts": [dataclasses.asdict(result) for result in results]})
    write_text(directory / "report.md", "\n".join(lines) + "\n")
    print("", *lines, "", f"Written to {directory / 'report.md'} and report.json.", sep="\n", flush=True)
    failed = [part.name for part, result in zip(parts, results, strict=True) if is_failure(part, result)]
    if failed:
        raise ValueError(
            f"{len(failed)} of {len(parts)} parts failed: {', '.join(failed)}. The report says what; logs: "
            f"{directory / 'parts'}. The same command repeats only these parts."
        )
