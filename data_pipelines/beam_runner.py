"""The dataset builder on Apache Beam, for corpora beyond one machine: the same groups, chunks and files as on
one machine.

    python -m data_pipelines.corpus … --runner FlinkRunner -- --flink_master=HOST:8081 --parallelism=64
    python -m data_pipelines.corpus … --runner FnApiRunner -- --direct_num_workers=4 --direct_running_mode=multi_processing

A group of sources is read by one worker (cut a corpus into files of some GB); its chunks are dealt out to all
workers, and each becomes one file. Every worker needs this package installed, and sees the sources, the
tokenizer and --out under the paths that they have here: on a file system that all share, or a bucket mounted
on all. Paths like gs://… are not read, so Dataflow needs a container that mounts the bucket. A chunk that is
done is not packed again, be it that the runner tries twice or that the command is given again. Shown to work
with Beam's own runner of one machine, FnApiRunner, in one process and in several, which holds the whole text
in memory; no cluster has run it yet.
"""

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from data_pipelines.documents import ReadReport
from data_pipelines.shards import Group, Recipe, finish_job, read_jobs, write_json

REPORT = "report"


def make_pipeline(runner: str, options: Sequence[str]) -> beam.Pipeline:
    """An empty pipeline for the runner of that name, with Beam's own flags.

    Raises:
      ValueError: no such runner, or it wants other options.
    """
    try:
        return beam.Pipeline(options=PipelineOptions([f"--runner={runner}", *options]))
    except (ValueError, ImportError, AttributeError) as error:
        raise ValueError(f"--runner {runner}: {error}") from error


def run_pipeline(
    pipeline: beam.Pipeline, groups: Sequence[Group], recipe: Recipe, report: ReadReport
) -> list[tuple[str, dict[str, Any]]]:
    """(path, counts) of every chunk of all groups in order; what was read is added to `report`.

    Raises:
      OSError: the pipeline failed, or its workers wrote where this process cannot see it.
    """
    results = {name: Path(recipe.directory) / f"{name}.json" for name in ("chunks", "reports")}
    for path in results.values():
        path.unlink(missing_ok=True)  # of an earlier try
    read = (
        pipeline
        | "Groups" >> beam.Create(groups)
        | "Deal out groups" >> beam.Reshuffle()
        | "Read" >> beam.FlatMap(_read, recipe).with_outputs(REPORT, main="jobs")
    )
    chunks = read["jobs"] | "Deal out chunks" >> beam.Reshuffle() | "Pack" >> beam.Map(finish_job)
    for name, values in (("chunks", chunks), ("reports", read[REPORT])):
        _ = (
            values
            | f"All {name}" >> beam.combiners.ToList()
            | f"Write {name}" >> beam.Map(_write, results[name])
        )
    try:
        pipeline.run().wait_until_finish()
    except Exception as error:  # each runner has its own; the last line is the worker's
        reason = str(error).strip().rpartition("\n")[2]
        raise OSError(
            f"the Beam pipeline failed: {reason}. What is finished is kept for the next try."
        ) from error
    return _gather(results, report)


def _read(group: Group, recipe: Recipe) -> Iterator[Any]:
    report = ReadReport()
    yield from read_jobs(group, recipe, report)
    yield beam.pvalue.TaggedOutput(REPORT, (group.split, group.number, dataclasses.asdict(report)))


def _write(values: list, path: Path) -> None:
    write_json(path, sorted(values))


def _gather(results: dict[str, Path], report: ReadReport) -> list[tuple[str, dict[str, Any]]]:
    """What the workers wrote down, once all of it is seen here."""
    for path in results.values():
        _expect(path)
    for _, _, read in json.loads(results["reports"].read_text()):
        first_invalid = read.pop("first_invalid")
        report.first_invalid = report.first_invalid or first_invalid
        for name, value in read.items():
            setattr(report, name, getattr(report, name) + value)
    chunks = json.loads(results["chunks"].read_text())
    for path, _ in chunks:
        _expect(Path(path))
    return chunks


def _expect(path: Path) -> None:
    if not path.exists():
        raise OSError(
            f"{path}: written by a worker, and not seen here. Give an --out on a file system that this "
            "process and all workers share, under the same path."
        )
