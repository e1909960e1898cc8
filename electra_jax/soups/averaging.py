"""Makes a soup: the average of several checkpoints' parameters, as a run directory at step 0."""

import contextlib
import functools
import math
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from data_pipelines.directory_lock import only_maker
from data_pipelines.json_files import write_json
from data_pipelines.tokenizers.adopt import adopt_tokenizer
from data_pipelines.whole_files import unfinished_directory
from electra_jax.distributed.mesh import make_mesh
from electra_jax.distributed.sharding import replicated
from electra_jax.runs.provenance import record_start
from electra_jax.runs.trained import restore_params
from electra_jax.soups.ingredients import SOUP_FILE, Ingredient, open_ingredients
from electra_jax.soups.scores import HELD_OUT, PROBE, Score, check_name, open_score
from electra_jax.training.averaging import interpolate
from electra_jax.training.checkpointing import Checkpointer, with_shardings

ReadParams = Callable[[Ingredient], Any]


class SoupOptions(NamedTuple):
    """What `make_soup` does with the ingredients."""

    method: str  # a key of METHODS
    score: str | None  # name of the metric to measure; None: nothing is measured
    datasets: Sequence[str]  # directories of held-out rows; empty: those of the first run
    probe: dict[str, str]  # values that replace those of the first run's config.probe
    different_starts: bool  # accept checkpoints whose runs started from different parameters


class GreedyTrial(NamedTuple):
    """One average that a greedy soup tried."""

    added: str  # name of the ingredient
    to: list[str]  # names of the ingredients already in the average
    score: float
    is_kept: bool


class Soup(NamedTuple):
    """An average of ingredients."""

    params: Any
    kept: list[int]  # indices of the ingredients in the average
    scores: dict[int, float]  # index of an ingredient → its score; empty if nothing was measured
    score: float | None  # of the average
    trials: list[GreedyTrial]


# The ingredient's buffers are reused for the result, so that two models are in memory, never three.
@functools.partial(jax.jit, donate_argnums=1)
def add(mean: Any, params: Any, share: jax.Array) -> Any:
    """The mean of k models, from the mean of the first k - 1 and the k-th; `share` is 1/k."""
    return interpolate(mean, params, share)


def uniform(ingredients: Sequence[Ingredient], read: ReadParams, score: Score | None) -> Soup:
    """The mean of all ingredients, in float32."""
    mean, scores = None, {}
    for index, ingredient in enumerate(ingredients):
        params = read(ingredient)
        if score is not None:
            scores[index] = score.measure(params)
        _print_progress(index + 1, len(ingredients), ingredient, score, scores.get(index))
        mean = params if mean is None else add(mean, params, 1.0 / (index + 1))
    value = None if score is None else score.measure(mean)
    return Soup(mean, list(range(len(ingredients))), scores, value, [])


def greedy(ingredients: Sequence[Ingredient], read: ReadParams, score: Score) -> Soup:
    """GreedySoup: start with the best ingredient; from better to worse, add each one that does not make the
    average worse (Wortsman et al., Model soups, ICML 2022).

    Raises:
      ValueError: no ingredient has a score.
    """
    scores = {}
    for index, ingredient in enumerate(ingredients):
        scores[index] = score.measure(read(ingredient))
        _print_progress(index + 1, len(ingredients), ingredient, score, scores[index])
    best, *others = sorted(scores, key=lambda index: score.rank(scores[index]))
    if math.isnan(scores[best]):
        raise ValueError(
            f"--score: got {score.name} = NaN for all ingredients, expected a number. Choose by another "
            "score."
        )
    mean, kept, best_score, trials = read(ingredients[best]), [best], scores[best], []
    for index in others:
        name = ingredients[index].name
        candidate = add(mean, read(ingredients[index]), 1.0 / (len(kept) + 1))
        value = score.measure(candidate)
        is_kept = score.is_as_good(value, best_score)
        trials.append(GreedyTrial(name, [ingredients[one].name for one in kept], value, is_kept))
        decision = "kept" if is_kept else "left out"
        print(f"with {name}: {score.name} {value:.4f} after {best_score:.4f}, {decision}", file=sys.stderr)
        if is_kept:
            mean, best_score = candidate, value
            kept.append(index)
        del candidate  # otherwise three models would be in memory while the next ingredient is read
    return Soup(mean, kept, scores, best_score, trials)


def _print_progress(
    number: int, total: int, ingredient: Ingredient, score: Score | None, value: float | None
) -> None:
    measured = "" if score is None else f": {score.name} {value:.4f}"
    print(f"[{number}/{total}] {ingredient.name}{measured}", file=sys.stderr)


METHODS: dict[str, Callable[..., Soup]] = {"uniform": uniform, "greedy": greedy}


def make_soup(runs: Sequence[str], out: Path, options: SoupOptions) -> dict[str, Any]:
    """Average the checkpoints `runs`, each DIR or DIR:STEP, and write the result as the run directory `out`.

    Returns:
      The content of soup.json.
    Raises:
      ValueError: the ingredients cannot be averaged, or the score does not fit them. Nothing is written then.
      OSError: `out` exists, another process makes it, or a file cannot be read.
    """
    with only_maker(out) as check:
        return _make_soup(runs, out, options, check)


def _make_soup(
    runs: Sequence[str], out: Path, options: SoupOptions, check: Callable[[], None]
) -> dict[str, Any]:
    _check_options(out, options)
    ingredients = open_ingredients(runs, different_starts=options.different_starts)
    first = ingredients[0]
    # The most devices that divide the rows of an evaluation batch evenly.
    num_devices = math.gcd(jax.device_count(), first.config["eval"]["batch_size"])
    mesh = make_mesh({"data": -1, "fsdp": 1, "tensor": 1}, jax.devices()[:num_devices])
    with unfinished_directory(out) as unfinished:
        unfinished.mkdir()
        with _open_optional_score(first, mesh, options, unfinished / "probe") as score:
            soup = METHODS[options.method](ingredients, make_reader(first, mesh), score)
        record = describe(ingredients, soup, options)
        trained_length = min(ingredients[index].trained_length for index in soup.kept)
        write_run(unfinished, first, soup.params, record, trained_length)
        check()
        os.replace(unfinished, out)
    return record


def _check_options(out: Path, options: SoupOptions) -> None:
    if out.exists():
        raise FileExistsError(
            f"--workdir: {out} exists, expected a directory to make. Choose another, or remove it."
        )
    if options.score is not None:
        check_name(options.score)
    elif options.method == "greedy":
        raise ValueError(
            "--score is missing: --method=greedy chooses by it, for example "
            "--score=probe_finetuned_accuracy or --score=heldout_rtd_auc (--help explains what they measure)."
        )
    for flag, given, prefix in (
        ("--datasets", options.datasets, HELD_OUT),
        ("--probe", options.probe, PROBE),
    ):
        if given and not (options.score or "").startswith(prefix):
            score = "without --score" if options.score is None else f"with --score={options.score}"
            raise ValueError(
                f"{flag}: got {', '.join(given)} {score}, expected it with --score={prefix}METRIC: no other "
                "score reads it. Leave it out, or give such a score."
            )


def _open_optional_score(
    first: Ingredient, mesh: Mesh, options: SoupOptions, directory: Path
) -> contextlib.AbstractContextManager[Score | None]:
    if options.score is None:
        return contextlib.nullcontext()
    datasets = options.datasets or first.datasets
    return open_score(options.score, first, mesh, datasets=datasets, probe=options.probe, directory=directory)


def make_reader(first: Ingredient, mesh: Mesh) -> ReadParams:
    """A function that reads an ingredient's parameters, or their moving average if it has one, onto every
    device of `mesh`."""
    abstract = with_shardings(first.params, jax.tree.map(lambda _: replicated(mesh), first.params))
    return lambda ingredient: restore_params(ingredient.workdir, ingredient.step, abstract)[1]


def describe(ingredients: Sequence[Ingredient], soup: Soup, options: SoupOptions) -> dict[str, Any]:
    """The content of soup.json. A score that is NaN becomes null."""
    null_if_nan = lambda value: None if value is None or math.isnan(value) else value
    starts = [ingredient.start for ingredient in ingredients]
    return {
        "method": options.method,
        "start": starts[0] if all(start == starts[0] for start in starts) else None,
        "score": options.score
        and {"name": options.score, "value": null_if_nan(soup.score), "probe": options.probe},
        "ingredients": [
            {
                "workdir": str(ingredient.workdir),
                "step": ingredient.step,
                "weight": (index in soup.kept) / len(soup.kept),
                "score": null_if_nan(soup.scores.get(index)),
            }
            for index, ingredient in enumerate(ingredients)
        ],
        "trials": [trial._asdict() | {"score": null_if_nan(trial.score)} for trial in soup.trials],
    }


def write_run(
    directory: Path, first: Ingredient, params: Any, record: dict[str, Any], trained_length: int
) -> None:
    """Fill the run directory: the configuration and tokenizer of the first ingredient, `params` at step 0.

    Args:
      trained_length: ids in the longest rows that every ingredient was trained on.
    """
    config = first.config | {
        "data": first.config["data"] | {"datasets": first.datasets},
        "checkpoint": first.config["checkpoint"] | {"init_from": ""},
    }
    description = {"config": config, "data": [], "trained_length": trained_length}
    adopt_tokenizer(first.workdir / "tokenizer", directory / "tokenizer", lowercase=None)
    with contextlib.closing(Checkpointer(str(directory / "checkpoints"), keep=1)) as checkpointer:
        checkpointer.save_params(params, description)
    write_json(directory / "config.json", description)
    write_json(directory / SOUP_FILE, record)
    record_start(directory, 0)
