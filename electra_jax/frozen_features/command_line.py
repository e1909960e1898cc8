"""The flags of `python -m electra_jax.evaluate` for frozen features."""

import argparse
from collections.abc import Iterator
from pathlib import Path

from absl import flags

from data_pipelines.number_arguments import share, whole
from data_pipelines.problems import Problems
from electra_jax.frozen_features.evaluation import FROZEN, Options, evaluate_frozen
from electra_jax.runs.only_writer import Check

__all__ = ["FROZEN", "check_flags", "define_flags", "evaluate"]

flags.disclaim_key_flags()  # they are the command's own, so that its --help shows them
OF_OTHERS = ("minimal_pairs", "max_pairs", "sweep", "pretrainings")
OF_FROZEN = ("labelled", "noise", "outside", "every_layer", "max_examples")


def define_flags() -> None:
    """Define --frozen and what belongs to it."""
    text = "Train no encoder: fit classifiers on the features of those of --init_from."
    flags.DEFINE_boolean("frozen", False, text)
    text = "Numbers of labelled examples for --frozen, besides all; --seeds subsets of each."
    flags.DEFINE_list("labelled", ["8", "32", "128", "512"], text)
    text = "Shares of the letters with an error for --frozen, for example 0.05,0.15; empty: no noise."
    flags.DEFINE_list("noise", ["0.05", "0.15"], text)
    text = "Files (.txt, a text on each line) that --frozen should find foreign, besides the other tasks."
    flags.DEFINE_list("outside", None, text)
    flags.DEFINE_boolean("every_layer", False, "With --frozen, also fit the linear probe on every layer.")
    text = "Examples of each split and texts of each file that --frozen takes, drawn at random; 0: all."
    flags.DEFINE_integer("max_examples", 0, text, lower_bound=0)


def check_flags(values: flags.FlagValues) -> None:
    """Raises ValueError unless the flags are those of frozen features, or have nothing of them."""
    problems = Problems()
    given = lambda names: [name for name in names if values[name].present]
    if not values.frozen:
        for name in given(OF_FROZEN):
            problems.add_text(f"--{name}: got it without --frozen, expected both. Leave it out.")
        problems.report()
        return
    for name in given(OF_OTHERS):
        problems.add_text(
            f"--{name}: got it beside --frozen, which fine-tunes nothing. Leave one of them out."
        )
    if not values.init_from:
        problems.add_text(
            "--init_from is missing: the models to look at, for example --init_from=runs/small."
        )
    with problems.kept():
        _counts(values.labelled)
    with problems.kept():
        _rates(values.noise)
    problems.report()


def _counts(words: list[str]) -> list[int]:
    try:
        return list(map(whole(2), words))
    except argparse.ArgumentTypeError as error:
        raise ValueError(
            f"--labelled: {error}, or several, separated by commas, such as 8,32,128."
        ) from error


def _rates(words: list[str]) -> list[float]:
    try:
        return list(map(share, words))
    except argparse.ArgumentTypeError as error:
        raise ValueError(f"--noise: {error}; or several with commas, such as 0.05,0.15.") from error


def evaluate(values: flags.FlagValues, check: Check) -> Iterator[str]:
    """`evaluate_frozen` with the flags of the command."""
    options = Options(
        init_from=values.init_from,
        workdir=Path(values.workdir),
        json=values.json,
        labelled=_counts(values.labelled),
        seeds=values.seeds,
        noise=_rates(values.noise),
        outside=values.outside or [],
        every_layer=values.every_layer,
        max_examples=values.max_examples,
    )
    return evaluate_frozen(values.config.to_dict()["tasks"], options, check)
