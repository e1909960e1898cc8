"""Minimal pairs of several models: `python -m electra_jax.evaluate --minimal_pairs=…`.

Each model is scored on each file once: the scores are kept under the working directory, and the same command
again computes what is missing.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data_pipelines.json_files import read_json, write_json
from data_pipelines.progress import Progress, make_progress
from data_pipelines.tasks.minimal_pairs import PairFile, load_pairs
from electra_jax.distributed.mesh import make_mesh
from electra_jax.finetuning.folders import folder_names
from electra_jax.minimal_pairs.models import FLAG, Read, ScoredModel, identify, load_model
from electra_jax.minimal_pairs.scoring import EmptySentenceError, SentenceScorer
from electra_jax.minimal_pairs.summary import Summary, summarize, to_json
from electra_jax.minimal_pairs.tables import plot, table_lines
from electra_jax.prediction.models import load_pretrained
from electra_jax.prediction.pretrained import Pretrained
from electra_jax.runs.only_writer import Check
from electra_jax.runs.removed_checkpoints import KEPT_ADVICE
from electra_jax.runs.result_places import Results

RESULTS_FILE, SCORES, PLOTS = "minimal_pairs.json", "scores", "plots"
PICTURE = f"{PLOTS}/minimal_pairs.png"
MINIMAL_PAIRS = Results((RESULTS_FILE, PICTURE), (PLOTS, SCORES))
METHOD = 1  # of scoring; another number when scores change, so that older ones are computed again
DIGEST_LETTERS = 12
# Of a file with scores, for `read_json`. The scores of a rule are pairs of numbers: [good, bad].
FORM = {"made_from": {str: object}, "scores": {str: [[float]]}, "num_divided": int}
ADVICE = "Remove it: the same command computes it again."
MAX_BYTES = 1 << 30


class Options(NamedTuple):
    """What to score; the fields are the command's flags."""

    minimal_pairs: Sequence[str]
    init_from: Sequence[str]
    workdir: Path
    max_pairs: int  # of each phenomenon; 0: all
    json: str  # "": only in the working directory


class Result(NamedTuple):
    """One model by one rule."""

    model: ScoredModel
    rule: str
    summary: Summary

    @property
    def title(self) -> str:
        """For people."""
        return f"{self.model.name} {self.rule}"


def evaluate_minimal_pairs(options: Options, check: Check) -> Iterator[str]:
    """`score_models`, and the lines for the terminal.

    Raises:
      FileNotFoundError, ValueError, OSError, FloatingPointError: see `score_models`.
    """
    results, notes = score_models(options, check)
    yield from notes
    yield from table_lines(_titled(results))
    yield str(options.workdir / RESULTS_FILE)


def score_models(options: Options, check: Check) -> tuple[list[Result], list[str]]:
    """Score all pairs by all models, and write the results and their picture.

    Args:
      check: raises an error if another command writes the directory by now (`only_writer`).

    Raises:
      FileNotFoundError, ValueError, OSError: see `load_pairs` and `load_model`; they come before any score.
      FloatingPointError: a model's numbers are not finite.

    Returns:
      A result for each model and rule, and what should be known of them.
    """
    files = load_pairs(options.minimal_pairs, options.max_pairs)
    names = list(dict.fromkeys(options.init_from))
    # All models are read before any is scored, so that a wrong name is an error at once.
    read = _Reader()
    models = [identify(name, load_model(name, read)) for name in names]
    store = _Store(options.workdir / SCORES, models)
    due = {model: [file for file in files if store.read(model, file) is None] for model in models}
    total = len(models) * sum(len(file.pairs) for file in files)
    num_kept = total - sum(len(file.pairs) for missing in due.values() for file in missing)
    if num_kept:
        print(f"{num_kept:,} of {total:,} pairs are scored already", file=sys.stderr)
    if num_kept < total:
        with make_progress(total, "scoring pairs", unit="pair", start=num_kept) as progress:
            _score_missing(due, store, read, _Count(progress, num_kept, check))
    results, notes = [], []
    for model in models:
        stored = [store.read(model, file) for file in files]
        results += _results(model, files, stored)
        notes += _notes(model, stored)
    contents = {
        "max_pairs": options.max_pairs,
        "files": _described(files),
        "results": [_of(r) for r in results],
    }
    check()
    for path in filter(None, (options.workdir / RESULTS_FILE, options.json)):
        write_json(Path(path), contents, makes_directories=True)
    plot(_titled(results), options.workdir / PICTURE)
    return results, notes


def _titled(results: Sequence[Result]) -> dict[str, Summary]:
    return {result.title: result.summary for result in results}


class _Reader:
    """`load_pretrained` that keeps its last result: a single model, or DIR beside random:DIR, is read once.
    It frees that before it reads another one, since two large ones might not fit.

    A run that is read again may have trained further: the checkpoint is the one of the first reading."""

    def __init__(self):
        self._key: tuple[str, str] | None = None
        self._kept: Pretrained | None = None
        self._steps: dict[tuple[str, str], int | None] = {}

    def __call__(self, flag: str, place: str) -> Pretrained:
        key = flag, place
        if self._kept is None or self._key != key:
            self._kept = None
            step = self._steps.get(key)
            try:
                self._key, self._kept = key, load_pretrained(flag, place, step)
            except FileNotFoundError as error:
                if step is None:
                    raise
                raise FileNotFoundError(_changed(place, f": {error}")) from error
            self._steps[key] = self._kept.step
        return self._kept


def _changed(name: str, how: str) -> str:
    return f"{FLAG}: {name} has other weights than when this command began{how} {KEPT_ADVICE}"


class _Count(NamedTuple):
    """How far the work is."""

    progress: Progress
    start: int  # pairs that were scored before
    check: Check


class _Store:
    """Scores of models on files, each pair of them in one JSON file."""

    def __init__(self, directory: Path, models: Sequence[ScoredModel]):
        folders = folder_names(model.name for model in models)
        self._folders = {model: directory / folders[model.name] for model in models}

    def read(self, model: ScoredModel, file: PairFile) -> dict[str, Any] | None:
        """What was written of this model and these sentences; None if nothing was.

        Raises:
          ValueError: the file is damaged.
        """
        path = self._path(model, file)
        if not path.is_file():
            return None
        stored = read_json(path, FORM, advice=ADVICE, max_bytes=MAX_BYTES)
        return stored if stored["made_from"] == _made_from(model, file) else None

    def write(self, model: ScoredModel, file: PairFile, scores: dict[str, Any]) -> None:
        """Keep scores."""
        path = self._path(model, file)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {"made_from": _made_from(model, file), "file": file.path} | scores)

    def _path(self, model: ScoredModel, file: PairFile) -> Path:
        stem = next(iter(folder_names([Path(file.path).name.split(".")[0]]).values()))
        return self._folders[model] / f"{stem}-{file.digest[:DIGEST_LETTERS]}.json"


def _made_from(model: ScoredModel, file: PairFile) -> dict[str, Any]:
    return {"model": model.digest, "step": model.step, "sentences": file.digest, "method": METHOD}


def _score_missing(
    due: Mapping[ScoredModel, Sequence[PairFile]], store: _Store, read: Read, count: _Count
) -> None:
    done, mesh = count.start, make_mesh({"data": -1, "fsdp": 1, "tensor": 1})
    count.progress.update(done)
    for model, missing in due.items():
        if not missing:
            continue
        pretrained = load_model(model.name, read)
        if identify(model.name, pretrained) != model:
            raise ValueError(_changed(model.name, "."))
        scorer = SentenceScorer(pretrained, mesh)
        for file in missing:
            tell = lambda share, file=file, done=done: count.progress.update(
                done + int(share * len(file.pairs)), {"file": Path(file.path).name}
            )
            scores = _score(scorer, model, file, tell)
            count.check()
            store.write(model, file, scores)
            done += len(file.pairs)
        del pretrained, scorer  # before the next model is read


def _score(scorer: SentenceScorer, model: ScoredModel, file: PairFile, tell: Any) -> dict[str, Any]:
    sentences = [sentence for pair in file.pairs for sentence in (pair.good, pair.bad)]
    try:
        scores = scorer.score(sentences, tell)
    except EmptySentenceError as error:
        pair = file.pairs[error.number // 2]
        raise ValueError(
            f"{pair.where}: the vocabulary of {model.name} has no token for "
            f"{sentences[error.number]!r}, expected a sentence. Correct the line, or remove it."
        ) from error
    except FloatingPointError as error:
        raise FloatingPointError(f"{FLAG}: {model.name}: {error}") from error
    by_rule = {rule: values.reshape(-1, 2).tolist() for rule, values in scores.by_rule.items()}
    return {"scores": by_rule, "num_divided": scores.num_divided}


def _results(
    model: ScoredModel, files: Sequence[PairFile], stored: Sequence[dict[str, Any]]
) -> Iterator[Result]:
    pairs = [pair for file in files for pair in file.pairs]
    for rule in stored[0]["scores"]:
        scores_N2 = np.concatenate([np.array(one["scores"][rule]) for one in stored])
        yield Result(model, rule, summarize(pairs, *scores_N2.T))


def _of(result: Result) -> dict[str, Any]:
    model = {"model": result.model.name, "step": result.model.step, "digest": result.model.digest}
    return model | {"score": result.rule} | to_json(result.summary)


def _described(files: Sequence[PairFile]) -> list[dict[str, Any]]:
    return [{"path": file.path, "num_pairs": len(file.pairs), "digest": file.digest} for file in files]


def _notes(model: ScoredModel, stored: Sequence[dict[str, Any]]) -> Iterator[str]:
    if count := sum(one["num_divided"] for one in stored):
        yield f"{model.name}: {count:,} sentences are longer than its rows and were scored in parts"
