"""What a resumed experiment has yet to do: models that are missing, and the checkpoints that
its encoders come from."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from electra_jax.distributed.processes import exchange
from electra_jax.finetuning.encoders import check_start
from electra_jax.finetuning.experiment_directory import MODELS
from electra_jax.finetuning.experiment_runs import Run, run_of
from electra_jax.finetuning.folders import folder_names
from electra_jax.finetuning.model_files import is_saved_model
from electra_jax.finetuning.results import Result


def runs_of_missing_models(workdir: Path, results: Sequence[Result], runs: Sequence[Run]) -> dict[Path, Run]:
    """Directory → the run that had the best result, of every init in `runs` that has results and whose best
    model is gone. Doing that run again makes the model again."""
    folders = folder_names([*(result.model for result in results), *(run.init for run in runs)])
    missing = {}
    for init in dict.fromkeys(run.init for run in runs):
        own = [result for result in results if result.model == init]
        directory = workdir / MODELS / folders[init]
        if own and not is_saved_model(directory):
            metric = next(iter(own[0].metrics))
            missing[directory] = run_of(max(own, key=lambda result: result.metrics[metric]))
    return missing


def start_steps(
    names: Iterable[str], results: Sequence[Result], given: Mapping[str, int], workdir: Path
) -> dict[str, int]:
    """Encoder → the step of the checkpoint that it comes from, of those that come from one: that of its
    earlier results in `workdir`, or `given`, or the newest now. All processes call it.

    Raises:
      ValueError: earlier results are of another step than `given`.
      FileNotFoundError, OSError: see `check_start`; or the checkpoint of earlier results is gone.
    """
    recorded = {run_of(result).encoder: result.step for result in results if result.step is not None}
    steps = {}
    for name in dict.fromkeys(names):
        known = recorded.get(name)
        if known is not None and given.get(name, known) != known:
            raise ValueError(
                f"--init_from={name}: the results in {workdir} began from step {known}, those of other tasks "
                f"from step {given[name]}, expected one step for all. Use another --workdir, or give "
                f"{name}:{known} or {name}:{given[name]}."
            )
        try:
            step = check_start(name, given.get(name) if known is None else known)
        except FileNotFoundError as error:
            if known is None:
                raise
            raise FileNotFoundError(
                f"{error} The results in {workdir} began from step {known}. To begin from another step, give "
                f"{name}:STEP, which has results of its own, or use another --workdir."
            ) from error
        if step is not None:
            steps[name] = step
    # Another process may see a checkpoint that has been completed since.
    return exchange(steps)[0]
