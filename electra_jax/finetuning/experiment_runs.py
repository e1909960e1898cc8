"""The runs of an experiment: each is trained, and what it leaves is written."""

import contextlib
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from data_pipelines.tasks.words import word_separator
from electra_jax.distributed.processes import is_main_process
from electra_jax.distributed.stopping import StopNotice, Stopped
from electra_jax.finetuning.encoders import PretrainedEncoder, load_encoder
from electra_jax.finetuning.experiment_directory import (
    MODELS,
    PREDICTIONS,
    TOKENIZERS,
    write_description,
    write_results,
)
from electra_jax.finetuning.folders import folder_names
from electra_jax.finetuning.model_files import is_saved_model, save_model
from electra_jax.finetuning.predictions import write_predictions, write_scores
from electra_jax.finetuning.results import Result, reported_metrics
from electra_jax.finetuning.sweep import Settings, apply_settings, format_settings
from electra_jax.finetuning.task_finetuner import Finetuned, TaskFinetuner
from electra_jax.runs.only_writer import Check
from electra_jax.runs.removed_checkpoints import KEPT_ADVICE

SEED = "{seed}"  # in a name of --init_from: stands for the seed


class Run(NamedTuple):
    """One run of a plan."""

    init: str
    settings: Settings
    seed: int

    @property
    def encoder(self) -> str:
        """The name of its encoder, see `load_encoder`."""
        return self.init.replace(SEED, str(self.seed))

    @property
    def title(self) -> str:
        """For its user: start, seed and settings."""
        words = [self.encoder, f"seed {self.seed}", format_settings(self.settings)]
        return ", ".join(word for word in words if word)


def run_of(result: Result) -> Run:
    """The run that has this result."""
    return Run(result.model, result.settings, result.seed)


class RunsOfPlan:
    """Does runs and adds their results to `results`. With several processes all of them train together, and
    process 0 writes."""

    def __init__(
        self,
        finetuner: TaskFinetuner,
        description: dict[str, Any],
        workdir: Path,
        results: list[Result],
        runs: Sequence[Run],
        steps: Mapping[str, int],
        check: Check,
    ):
        """`description` is what config.json holds; `results` are those that `workdir` has; `steps`: encoder →
        the step of its checkpoint; `check` is called before anything is written."""
        self._finetuner, self._description, self._workdir = finetuner, description, workdir
        self._results, self._runs, self._steps, self._check = results, runs, steps, check
        # Earlier runs first, so that each keeps its folders when others are added.
        known = [*map(run_of, results), *runs]
        self._folders = folder_names(run.init for run in known)
        self._caches = folder_names(run.encoder for run in known)
        self._encoder: PretrainedEncoder | None = None

    def do(self, indices: Sequence[int]) -> list[str]:
        """Do the runs with these places in the plan; a sentence for each that diverged.

        Raises:
          Stopped: the command was told to stop. A run that has not ended leaves nothing.
        """
        causes = []
        with StopNotice() as stop, self._tokenizers() as tokenizers:
            stop.describe = lambda: "Stopping: finished runs are kept, and the same command does the others."
            try:
                for index in indices:
                    title = f"run {index + 1} of {len(self._runs)}, {self._runs[index].title}"
                    try:
                        self._do_one(self._runs[index], title, stop, Path(tokenizers))
                    except FloatingPointError as error:
                        causes.append(f"{title}: {error}")
                        if index != indices[-1] and is_main_process():
                            print(f"{causes[-1]} The other runs follow.", file=sys.stderr)
            except Stopped:
                if is_main_process():
                    stop.announce()
                raise
        return causes

    def _do_one(self, run: Run, title: str, stop: StopNotice, tokenizers: Path) -> None:
        began = time.monotonic()
        # One process is ended by a signal at once, several have to agree on a step.
        check = stop.check if jax.distributed.is_initialized() else lambda: None
        with stop.nothing_to_save(f"fine-tuning ({title})"):
            self._load(run, tokenizers)
            finetuned = self._finetuner.finetune(self._encoder, run.settings, run.seed, title, check)
        result = self._keep(run, finetuned)
        if self._finetuner.config["log"]["progress"] and is_main_process():
            shown = reported_metrics([result], self._finetuner.task_type.metrics)
            print(_score_line(title, finetuned, shown, time.monotonic() - began), file=sys.stderr)
        stop.check()

    def _tokenizers(self) -> contextlib.AbstractContextManager[str | Path]:
        """Context of the directory for tokenizers of Hugging Face models; two processes must not write one
        file."""
        if is_main_process():
            return contextlib.nullcontext(self._workdir / TOKENIZERS)
        return tempfile.TemporaryDirectory()

    def _load(self, run: Run, tokenizers: Path) -> None:
        """Load the encoder of a run, unless the run before had the same."""
        if self._encoder is not None and self._encoder.name == run.encoder:
            return
        cache, step = tokenizers / self._caches[run.encoder], self._steps.get(run.encoder)
        try:
            self._encoder = load_encoder(run.encoder, cache, step)
        except FileNotFoundError as error:
            if step is None:
                raise
            raise FileNotFoundError(
                f"--init_from={run.encoder}: {error} This command began with step {step}. {KEPT_ADVICE}"
            ) from error
        self._check_same_encoder(run)
        self._finetuner.check_runs([each.settings for each in self._runs], self._encoder)
        self._check()
        if is_main_process():
            write_description(self._workdir, self._description)

    def _check_same_encoder(self, run: Run) -> None:
        """Raises ValueError if earlier runs began with other weights of the same name."""
        known = {result.encoder for result in self._results if run_of(result).encoder == run.encoder} - {""}
        if self._encoder.digest and known - {self._encoder.digest}:
            raise ValueError(
                f"--init_from={run.encoder}: {self._workdir} has results of other weights of this name, "
                "expected the same for all runs: was it trained further, or replaced? Use another --workdir."
            )

    def _keep(self, run: Run, finetuned: Finetuned) -> Result:
        """Write the predictions of a run, its model if it beats every other one of the same init, and its
        result, which is returned. A run that is done again since its model was gone leaves one, unless a
        better one is there."""
        encoder = self._encoder
        result = Result(run.init, run.seed, finetuned.metrics, run.settings, encoder.digest, encoder.step)
        metric = next(iter(result.metrics))
        known = list(map(run_of, self._results))
        is_again = run in known  # for its model, which was gone
        others = [
            other.metrics[metric]
            for other in self._results
            if other.model == run.init and run_of(other) != run
        ]
        place = known.index(run) if is_again else len(known)  # of equal results the first one has the model
        self._results[place : place + 1] = [result]
        if not is_main_process():
            return result
        self._check()
        finetuner, folder = self._finetuner, self._folders[run.init]
        model = self._workdir / MODELS / folder
        settings = folder_names([format_settings(run.settings)]).values()
        directory = self._workdir.joinpath(PREDICTIONS, folder, *settings, f"seed_{run.seed}")
        task = finetuner.config["task"]
        for split, predictions in finetuned.predictions.items():
            write_predictions(directory, finetuner.task_type, task, finetuner.data, split, predictions)
        if finetuned.scores:
            write_scores(directory, finetuned)
        value = result.metrics[metric]
        is_as_good = all(other <= value for other in others)
        # New runs before this one may have saved a better model than the one that was gone.
        if all(other < value for other in others) or (is_again and (is_as_good or not is_saved_model(model))):
            self._save(run, finetuned, model)
        write_results(self._workdir, self._results)
        return result

    def _save(self, run: Run, finetuned: Finetuned, directory: Path) -> None:
        finetuner, encoder = self._finetuner, self._encoder
        config, origin = apply_settings(finetuner.config, run.settings), finetuner.data.origins.get("train")
        description = {
            "task": config["task"],
            "labels": finetuner.data.labels,
            "dataset": origin.dataset if origin else "",
            "config": config,
            "start": encoder.name,
            "start_step": encoder.step,
            "seed": run.seed,
            "settings": run.settings,
            "metrics": finetuned.metrics,
            "trained_length": max(encoder.trained_length, finetuner.row_length(encoder)),
        }
        if finetuner.task_type.name == "tagging":
            description["word_separator"] = word_separator(encoder.tokenizer)
        save_model(directory, finetuned.encoder, description, encoder.tokenizer, finetuned.params)


def _score_line(title: str, finetuned: Finetuned, metrics: Sequence[str], seconds: float) -> str:
    words = [f"{name} {finetuned.metrics[name]:.3f}" for name in metrics]
    if finetuned.kept_step is not None:
        words.append(f"(of step {finetuned.kept_step}, the best)")
    return f"{title}: {'  '.join(words)}, {seconds:.0f} s"
