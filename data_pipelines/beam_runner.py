"""Build a dataset with Apache Beam, for corpora too large for one machine: the same groups, chunks and files.

    python -m data_pipelines.corpus … --runner FlinkRunner -- --flink_master=HOST:8081 --parallelism=64
    python -m data_pipelines.corpus … --runner FnApiRunner -- \\
        --direct_num_workers=4 --direct_running_mode=multi_processing

One worker reads a group of sources (cut a corpus into files of some GB); its chunks are distributed to all
workers, and each becomes one file. Every worker needs this package installed, and must see the sources, the
tokenizer and --out under the same paths as this process: on a shared file system, or a bucket that all
mount. Paths like gs://… are not read, so Dataflow needs a container that mounts the bucket. A finished chunk
is not packed again if the runner retries it or the command is repeated. Tested with Beam's own runner for one
machine, FnApiRunner, in one process and in several; it holds the whole text in memory. Not yet run on a
cluster.
"""

import contextlib
import dataclasses
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions
from apache_beam.runners.direct.direct_runner import DirectRunner
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

from data_pipelines.chunks import Group, read_jobs
from data_pipelines.corpus_settings import CorpusSettings
from data_pipelines.dataset_directory import BEAM_FILES
from data_pipelines.documents import ReadReport
from data_pipelines.json_files import read_json, write_json
from data_pipelines.shards import finish_job

REPORT = "report"
MAX_RESULT_BYTES = 1 << 32  # of the workers' results: about 1 kB for each chunk of text


def make_pipeline(runner: str, options: Sequence[str]) -> beam.Pipeline:
    """An empty pipeline for the runner of that name, with Beam's own flags.

    Raises:
      ValueError: no such runner, or it does not accept the options.
    """
    try:
        return beam.Pipeline(options=PipelineOptions([f"--runner={runner}", *options]))
    except (ValueError, ImportError, AttributeError) as error:
        raise ValueError(f"--runner {runner}: {error}") from error


def run_pipeline(
    pipeline: beam.Pipeline,
    groups: Sequence[Group],
    settings: CorpusSettings,
    directory: Path,
    report: ReadReport,
) -> list[tuple[str, dict[str, Any]]]:
    """(path, counts) of every chunk of all groups in order; `report` is added to.

    Raises:
      OSError: the pipeline failed, or its workers wrote where this process cannot see it.
    """
    results = {Path(name).stem: directory / name for name in BEAM_FILES}
    for path in results.values():
        path.unlink(missing_ok=True)  # of an earlier attempt
    read = (
        pipeline
        | "Groups" >> beam.Create(groups)
        | "Distribute groups" >> beam.Reshuffle()
        | "Read" >> beam.FlatMap(_read, settings, directory).with_outputs(REPORT, main="jobs")
    )
    chunks = read["jobs"] | "Distribute chunks" >> beam.Reshuffle() | "Pack" >> beam.Map(finish_job)
    for name, values in (("chunks", chunks), ("reports", read[REPORT])):
        _ = (
            values
            | f"All {name}" >> beam.combiners.ToList()
            | f"Write {name}" >> beam.Map(_write, results[name])
        )
    try:
        with quoted_python(pipeline):
            pipeline.run().wait_until_finish()
    except Exception as error:  # each runner raises its own; the last line is the worker's
        reason = str(error).strip().rpartition("\n")[2]
        raise OSError(
            f"the Beam pipeline failed: {reason}. Finished files are kept for the next attempt."
        ) from error
    return _gather(results, report)


@contextlib.contextmanager
def quoted_python(pipeline: beam.Pipeline) -> Iterator[None]:
    """Context in which Beam's runner for one machine can start its processes: it writes sys.executable into a
    shell command without quotes. A blank in the path would end the name, and the pipeline hang.
    Other runners, of clusters, hand the path on as a word."""
    python = sys.executable
    is_here = isinstance(pipeline.runner, (FnApiRunner, DirectRunner))
    if is_here and pipeline.options.view_as(DirectOptions).direct_running_mode == "multi_processing":
        sys.executable = shlex.quote(python)
    try:
        yield
    finally:
        sys.executable = python


def _read(group: Group, settings: CorpusSettings, directory: Path) -> Iterator[Any]:
    report = ReadReport()
    yield from read_jobs(group, settings, directory, report)
    yield beam.pvalue.TaggedOutput(REPORT, (group.split, group.number, dataclasses.asdict(report)))


def _write(values: list, path: Path) -> None:
    write_json(path, sorted(values))


def _gather(results: dict[str, Path], report: ReadReport) -> list[tuple[str, dict[str, Any]]]:
    """The workers' results, after checking that this process sees all files."""
    for path in results.values():
        _expect(path)
    for _, _, read in read_json(results["reports"], list, max_bytes=MAX_RESULT_BYTES):
        report.add(ReadReport(**read))
    chunks = read_json(results["chunks"], list, max_bytes=MAX_RESULT_BYTES)
    for path, _ in chunks:
        _expect(Path(path))
    return chunks


def _expect(path: Path) -> None:
    if not path.exists():
        raise OSError(
            f"{path}: a worker wrote it, but it does not exist here. Give an --out on a file system that "
            "this process and all workers share, under the same path."
        )
