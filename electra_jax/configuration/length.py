"""The length of a run: config.train.num_steps or, in its place, num_epochs or num_tokens.

A token is an id of a row, padding and special ids included. An epoch is as many rows as all datasets of
config.data.datasets have together. config.data.weights may draw more of them from one dataset: then an epoch
reads some rows of it twice and leaves out rows of others. Both are rounded up to whole steps. What is
resolved has num_steps alone, so that a run which resumes has the same length and the same schedule.
"""

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

from data_pipelines.number_arguments import LARGEST
from electra_jax.configuration.checks import check_values
from electra_jax.configuration.stages import make_stages

KEYS = ("num_steps", "num_epochs", "num_tokens")
SCALED = ("warmup_steps", "decay_steps")  # of a schedule, in steps; 0: not given in steps


def with_num_steps(config: dict[str, Any], num_rows: Callable[[], int] | None) -> dict[str, Any]:
    """The configuration with its length in train.num_steps alone.

    Args:
      config: a whole configuration of pre-training without zeros for sizes. It is not changed.
      num_rows: called for the number of rows of all datasets; None if no dataset is read.

    Raises:
      ValueError: both num_epochs and num_tokens are given, or epochs whose number of steps is not known, or
        tokens that the stages before the last one need, or values are not allowed.
    """
    train = config["train"]
    num_epochs, num_tokens = train["num_epochs"], train["num_tokens"]
    if not num_epochs and not num_tokens:
        return config
    check_values(config)  # before anything is divided by a batch size of 0
    if num_epochs and num_tokens:
        raise ValueError(
            f"config.train.num_epochs, config.train.num_tokens: got {num_epochs:g} and {num_tokens:g}, "
            "expected one of them. Set the other to 0."
        )
    if num_tokens:
        num_steps = _steps_for_tokens(config, num_tokens)
    elif config["stages"]:
        raise ValueError(
            f"config.train.num_epochs: got {num_epochs:g} in a run with config.stages, whose stages may read "
            "different datasets. Pass --config.train.num_tokens or --config.train.num_steps."
        )
    elif num_rows is None:
        raise ValueError(
            f"config.train.num_epochs: got {num_epochs:g}, but this command does not read the datasets. Pass "
            "--config.train.num_tokens or --config.train.num_steps."
        )
    else:
        num_steps = _round_up(num_epochs * num_rows() / train["batch_size"])
    if num_steps > LARGEST:
        key, value = ("num_tokens", num_tokens) if num_tokens else ("num_epochs", num_epochs)
        raise ValueError(
            f"config.train.{key}: got {value:g}, which are {num_steps:,} steps, expected at most "
            f"{LARGEST:,}. Pass less, or a larger --config.train.batch_size."
        )
    return config | {"train": train | {"num_steps": num_steps, "num_epochs": 0.0, "num_tokens": 0.0}}


def with_scaled_schedule(config: dict[str, Any], num_steps: int) -> dict[str, Any]:
    """The configuration, whose length is in train.num_steps, with another number of steps. Warm-up and decay,
    if they are given in steps, keep their share of the run, and have one step or more."""
    train, optimizer = config["train"], config["optimizer"]
    share = num_steps / train["num_steps"]
    scaled = {key: max(1, round(optimizer[key] * share)) for key in SCALED if optimizer[key]}
    return config | {"train": train | {"num_steps": num_steps}, "optimizer": optimizer | scaled}


def without_end(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration with the largest train.num_steps, if another key decides it; that key is then 0."""
    train = config["train"]
    if not train["num_epochs"] and not train["num_tokens"]:
        return config
    return config | {"train": train | {"num_steps": LARGEST, "num_epochs": 0.0, "num_tokens": 0.0}}


def check_one_length(argv: Sequence[str]) -> None:
    """Raises ValueError if a command line gives more than one of the keys, none of them 0."""
    given: dict[str, dict[str, str]] = {}
    for word, following in zip(argv, [*argv[1:], ""], strict=True):
        word = word if "=" in word else f"{word}={following}"
        length = re.fullmatch(rf"--?(config\.(?:\w+\.)*train)\.({'|'.join(KEYS)})=(.*)", word)
        if length and not re.fullmatch(r"0*\.?0*", length[3]):
            given.setdefault(length[1], {})[length[2]] = length[3]
    for section, values in given.items():
        if len(values) > 1:
            words = " and ".join(f"--{section}.{key}={value}" for key, value in values.items())
            raise ValueError(f"got {words}, expected one of them: each is the length of the run.")


def _steps_for_tokens(config: dict[str, Any], num_tokens: float) -> int:
    """Steps of all stages together; the last stage has what the others leave."""
    *finished, last = make_stages(without_end(config))
    needed = sum((stage.end - stage.first_step) * _tokens_a_step(stage.config) for stage in finished)
    if num_tokens <= needed:
        raise ValueError(
            f"config.train.num_tokens: got {num_tokens:,.0f}, expected more than {needed:,}, which are "
            f"read before the last stage begins with step {last.first_step:,}. Pass more, or begin the "
            "stages earlier."
        )
    return last.first_step + _round_up((num_tokens - needed) / _tokens_a_step(last.config))


def _tokens_a_step(config: dict[str, Any]) -> int:
    return config["train"]["batch_size"] * config["data"]["sequence_length"]


def _round_up(steps: float) -> int:
    return max(1, math.ceil(steps - 1e-9)) if steps > 0 else 0
