"""Average the parameters of several checkpoints, of several runs or of one: `python -m electra_jax.soup`.

    python -m electra_jax.soup --runs=runs/a,runs/b,runs/c --workdir=runs/soup
    python -m electra_jax.soup --runs=runs/a:900000,runs/a:950000,runs/a --workdir=runs/late
    python -m electra_jax.soup --runs=runs/a,runs/b,runs/c --method=greedy --score=probe_finetuned_accuracy --workdir=runs/soup

What comes out is a run directory at step 0, as `electra_jax.convert import` makes one: fine-tune it, evaluate
it, export it, or go on from it with configs/continued.py:run=DIR. Its settings are those of the first run
that is named. soup.json says what went into it, with which weights, and what was tried. Ingredients share
model, tokenizer and start, and may differ in data, objective and its weights, learning rate, steps. Where a
run keeps a moving average (config.train.ema_decay), that is averaged.

uniform: the mean of all. greedy: the ingredients are sorted by --score; one after the other is added if the
average does not lower it (Wortsman et al., Model soups, ICML 2022, GreedySoup). A score is a metric of
summary.json, measured as the first run measures it: on held-out text (heldout_mlm_loss says something of the
generator alone; heldout_rtd_auc is of texts that the average's own generator corrupted, and a worse generator
is easier to see through), or on the task of config.probe (probe_frozen_accuracy, probe_finetuned_accuracy;
--probe=KEY=VALUE sets another task). What was chosen by a score looks better by it than it is: report
another.
"""

import argparse
import contextlib
import functools
import math
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from data_pipelines.json_files import write_json
from data_pipelines.tokenizers.huggingface import adopt_tokenizer
from electra_jax.configuration.flags import silence_libraries
from electra_jax.distributed.mesh import make_mesh
from electra_jax.distributed.sharding import replicated
from electra_jax.runs.provenance import record_start
from electra_jax.runs.trained import restore_params
from electra_jax.soups.ingredients import SOUP_FILE, Ingredient, open_ingredients
from electra_jax.soups.scores import Score, check_name, open_score
from electra_jax.training.averaging import interpolate
from electra_jax.training.checkpointing import Checkpointer, with_shardings

Read = Callable[[Ingredient], Any]


class SoupOptions(NamedTuple):
    """score: None where nothing is measured. datasets: directories of held-out rows, those of the first run
    if there are none. probe: values in the place of those of its config.probe."""

    method: str
    score: str | None
    datasets: Sequence[str]
    probe: dict[str, str]
    different_starts: bool


class Trial(NamedTuple):
    """An average that a greedy soup tried: `added` to those that were in it, and its score."""

    added: str
    to: list[str]
    score: float
    is_kept: bool


class Soup(NamedTuple):
    """kept: places of the ingredients that the average is of. scores: of each ingredient, {} where nothing
    was measured."""

    params: Any
    kept: list[int]
    scores: dict[int, float]
    score: float | None
    trials: list[Trial]


# Written over the ingredient: with the average so far there are two models in memory, never three.
@functools.partial(jax.jit, donate_argnums=1)
def add(mean: Any, params: Any, share: jax.Array) -> Any:
    """The mean of k models from that of the first k - 1 and the k-th; `share` is 1/k."""
    return interpolate(mean, params, share)


def uniform(ingredients: Sequence[Ingredient], read: Read, score: Score | None) -> Soup:
    """The mean of all, in float32."""
    mean, scores = None, {}
    for place, ingredient in enumerate(ingredients):
        params = read(ingredient)
        scores |= {} if score is None else {place: score.measure(params)}
        _report(place + 1, len(ingredients), ingredient, score, scores.get(place))
        mean = params if mean is None else add(mean, params, 1.0 / (place + 1))
    return Soup(
        mean, list(range(len(ingredients))), scores, None if score is None else score.measure(mean), []
    )


def greedy(ingredients: Sequence[Ingredient], read: Read, score: Score) -> Soup:
    """The best ingredient, and with it each that does not make the average worse, in the order of their
    scores.

    Raises:
      ValueError: no ingredient has a score.
    """
    scores = {}
    for place, ingredient in enumerate(ingredients):
        scores[place] = score.measure(read(ingredient))
        _report(place + 1, len(ingredients), ingredient, score, scores[place])
    best, *others = sorted(scores, key=lambda place: score.rank(scores[place]))
    if math.isnan(scores[best]):
        raise ValueError(
            f"--score: got {score.name} = NaN for all ingredients, expected a number. Choose by another "
            "score."
        )
    mean, kept, reached, trials = read(ingredients[best]), [best], scores[best], []
    for place in others:
        candidate = add(mean, read(ingredients[place]), 1.0 / (len(kept) + 1))
        value = score.measure(candidate)
        is_kept = score.is_as_good(value, reached)
        trials.append(Trial(ingredients[place].name, [ingredients[one].name for one in kept], value, is_kept))
        print(
            f"with {ingredients[place].name}: {score.name} {value:.4f} after {reached:.4f}, "
            f"{'kept' if is_kept else 'left out'}",
            file=sys.stderr,
        )
        if is_kept:
            mean, reached = candidate, value
            kept.append(place)
        del candidate  # or it would be a third model while the next one is read
    return Soup(mean, kept, scores, reached, trials)


def _report(
    number: int, total: int, ingredient: Ingredient, score: Score | None, value: float | None
) -> None:
    measured = "" if score is None else f": {score.name} {value:.4f}"
    print(f"[{number}/{total}] {ingredient.name}{measured}", file=sys.stderr)


METHODS: dict[str, Callable[..., Soup]] = {"uniform": uniform, "greedy": greedy}


def make_soup(runs: Sequence[str], out: Path, choices: SoupOptions) -> dict[str, Any]:
    """Make the run directory `out` of the checkpoints `runs`; returns what its soup.json says.

    Raises: ValueError: the ingredients do not belong together, or the score does not fit them; nothing is
      left behind then. OSError: `out` exists, or something cannot be read.
    """
    if out.exists():
        raise FileExistsError(
            f"--workdir: {out} exists, expected a directory to make. Choose another, or remove it."
        )
    if choices.score is not None:
        check_name(choices.score)
    elif choices.method == "greedy":
        raise ValueError(
            "--score is missing: --method=greedy chooses by it, for example "
            "--score=probe_finetuned_accuracy or --score=heldout_rtd_auc (--help says what they measure)."
        )
    ingredients = open_ingredients(runs, different_starts=choices.different_starts)
    first = ingredients[0]
    # As many of the devices as have equal shares of the rows that are scored.
    num_devices = math.gcd(jax.device_count(), first.config["eval"]["batch_size"])
    mesh = make_mesh({"data": -1, "fsdp": 1, "tensor": 1}, jax.devices()[:num_devices])
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as temporary:
        unfinished = Path(temporary, out.name)
        unfinished.mkdir()
        opened = (
            contextlib.nullcontext()
            if choices.score is None
            else open_score(
                choices.score,
                first,
                mesh,
                datasets=choices.datasets or first.datasets,
                probe=choices.probe,
                directory=unfinished / "probe",
            )
        )
        with opened as score:
            soup = METHODS[choices.method](ingredients, make_read(first, mesh), score)
        record = describe(ingredients, soup, choices)
        config = first.config | {
            "data": first.config["data"] | {"datasets": first.datasets},
            "checkpoint": first.config["checkpoint"] | {"init_from": ""},
        }
        write_run(unfinished, first, {"config": config, "data": []}, soup.params, record)
        os.replace(unfinished, out)
    return record


def make_read(first: Ingredient, mesh: Mesh) -> Read:
    """The parameters of an ingredient, all of them on every device; its moving average where it has one."""
    abstract = with_shardings(first.params, jax.tree.map(lambda _: replicated(mesh), first.params))
    return lambda ingredient: restore_params(ingredient.workdir, ingredient.step, abstract)[1]


def describe(ingredients: Sequence[Ingredient], soup: Soup, choices: SoupOptions) -> dict[str, Any]:
    """soup.json. A score that is NaN is null."""
    numbers = lambda value: None if value is None or math.isnan(value) else value
    starts = [one.start for one in ingredients]
    return {
        "method": choices.method,
        "start": starts[0] if all(start == starts[0] for start in starts) else None,
        "score": choices.score
        and {"name": choices.score, "value": numbers(soup.score), "probe": choices.probe},
        "ingredients": [
            {
                "workdir": str(one.workdir),
                "step": one.step,
                "weight": (place in soup.kept) / len(soup.kept),
                "score": numbers(soup.scores.get(place)),
            }
            for place, one in enumerate(ingredients)
        ],
        "trials": [trial._asdict() | {"score": numbers(trial.score)} for trial in soup.trials],
    }


def write_run(
    directory: Path, first: Ingredient, description: dict[str, Any], params: Any, record: dict[str, Any]
) -> None:
    """Fill the run directory."""
    adopt_tokenizer(first.workdir / "tokenizer", directory / "tokenizer", lowercase=None)
    with contextlib.closing(Checkpointer(str(directory / "checkpoints"), keep=1)) as checkpointer:
        checkpointer.save_params(params, description)
    write_json(directory / "config.json", description)
    write_json(directory / SOUP_FILE, record)
    record_start(directory, 0)


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m electra_jax.soup",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--runs",
        required=True,
        type=_words,
        metavar="DIR[:STEP],…",
        help="checkpoints to average: run directories, each with a step, or its newest",
    )
    parser.add_argument("--workdir", required=True, type=Path, metavar="OUT", help="run directory to create")
    parser.add_argument("--method", choices=METHODS, default="uniform", help="default uniform")
    parser.add_argument(
        "--score", metavar="NAME", help="what --method=greedy chooses by; with uniform it is only reported"
    )
    parser.add_argument(
        "--datasets",
        type=_words,
        default=[],
        metavar="DIR,…",
        help="whose held-out rows to score on (default: those of the first run)",
    )
    parser.add_argument(
        "--probe",
        action="append",
        type=_pair,
        default=[],
        metavar="KEY=VALUE",
        help="a value in the place of config.probe.KEY of the first run (train=FILE, validation=FILE, "
        "config=configs/finetune.py:task=…); several flags are combined",
    )
    parser.add_argument(
        "--different_starts", action="store_true", help="average also what did not start alike"
    )
    return parser


def _words(text: str) -> list[str]:
    return [word for word in text.split(",") if word]


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected KEY=VALUE")
    return key, value


def main(argv: Sequence[str] | None = None) -> None:
    """Command line of this module."""
    flags = make_parser().parse_args(argv)
    silence_libraries()
    try:
        record = make_soup(
            flags.runs,
            flags.workdir,
            SoupOptions(flags.method, flags.score, flags.datasets, dict(flags.probe), flags.different_starts),
        )
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
    for one in record["ingredients"]:
        print(f"{one['weight']:.3f}  {one['workdir']}:{one['step']}")
    if record["score"]:
        print(f"{record['score']['name']} of the soup: {record['score']['value']}")
    print(flags.workdir)


if __name__ == "__main__":
    main()
