"""`doctor --read_all`: whether every row of a run's datasets is the one that was built."""

from collections.abc import Callable

from data_pipelines.dataset_digests import check_all_rows
from data_pipelines.problems import Problems
from data_pipelines.progress import make_progress
from electra_jax.distributed.processes import is_main_process
from electra_jax.runs.inputs import RunInputs


def check_rows(inputs: RunInputs, on_progress: Callable[[], None]) -> str:
    """Read all rows of all datasets and compare their digests; what was found, as text.

    Args:
      on_progress: called after every few thousand rows.

    Raises:
      OSError, ValueError: rows cannot be read or are others; names every dataset and file.
    """
    infos = {
        source.path: info
        for stage in inputs.stages
        for source, info in zip(stage.mixture.sources, stage.mixture.infos, strict=True)
    }
    total = sum(split["rows"] for info in infos.values() for split in info.splits.values())
    problems, number = Problems(), 0
    with make_progress(total, "reading all rows", unit="row", is_shown=is_main_process()) as shown:

        def count(rows: int) -> None:
            nonlocal number
            number += rows
            shown.update(number)
            on_progress()

        for path in infos:
            with problems.kept():
                check_all_rows(path, count)
    problems.report()
    return f"all {total:,} rows are those that were built"
