"""Runs one part of the check in this process: `python -m electra_jax.benchmarks.accelerator.process`.

The check starts it; what it prints goes into the part's log.
"""

import argparse
import importlib
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from data_pipelines.command_errors import errors_on_the_terminal
from electra_jax.benchmarks.accelerator.parts import Job, find_parts, result_path
from electra_jax.benchmarks.accelerator.results import FAILED, NOT_RUN, PASSED, CannotRunError, Recorder
from electra_jax.configuration.process_setup import prepare_process


@errors_on_the_terminal()
def main(argv: Sequence[str] | None = None) -> None:
    """Run the part and record how it ended."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", required=True, help="its name")
    parser.add_argument("--directory", required=True, type=Path, help="of the whole check")
    parser.add_argument("--data", default="", help="a dataset for the debug recipe")
    flags = parser.parse_args(argv)
    prepare_process()
    part = find_parts([flags.part])[-1]
    recorder = Recorder(result_path(flags.directory, part.name), part.name)
    sys.exit(0 if run_recorded(Job(part, flags.directory, flags.data, recorder)) else 1)


def run_recorded(job: Job) -> bool:
    """Run the part of a job; returns whether it passed, or could not be run here."""
    recorder = job.recorder
    try:
        importlib.import_module(job.part.module).run_part(job)
    except CannotRunError as reason:
        recorder.remark(str(reason))
        recorder.finish(NOT_RUN)
        return True
    except Exception as error:  # whatever it is, the other parts still run
        traceback.print_exc()
        recorder.remark(f"{type(error).__name__}: {error}")
        recorder.finish(FAILED)
        return False
    recorder.finish(FAILED if recorder.result.failed_checks else PASSED)
    return not recorder.result.failed_checks


if __name__ == "__main__":
    main()
