"""Sizes that a configuration leaves to the data: config.model.vocab_size=0, config.data.sequence_length=0
and, with an objective that needs chunks of the vocabulary, config.objective.vocab_chunk_size=0.

`pretrain` takes them from the datasets (runs/data_sizes.py). Commands that read no data take those of the
recipe's section `assumed`: for a published recipe, the sizes of its paper. What is resolved, and therefore
every file that a run writes, has real numbers and no section `assumed`.
"""

from collections.abc import Callable
from typing import Any

from electra_jax.configuration.length import without_end
from electra_jax.configuration.stages import make_stages
from electra_jax.objectives.registry import find_row
from electra_jax.objectives.requirements import chunk_size_of

ASSUMED = "assumed"
NOTHING_ASSUMED = {"vocab_size": 0, "sequence_length": 0}


def assumed_sizes(config: dict[str, Any]) -> dict[str, int]:
    """The section `assumed` of a recipe; one that has all its sizes needs none."""
    if ASSUMED not in config:
        return NOTHING_ASSUMED
    return config[ASSUMED]


def with_assumed_sizes(config: dict[str, Any]) -> dict[str, Any]:
    """`with_sizes` for commands that read no data.

    Raises:
      ValueError: a size is 0 that the section `assumed` does not have, or config.stages is malformed.
    """
    assumed = assumed_sizes(config)
    return with_sizes(config, lambda: assumed["vocab_size"], lambda data: assumed["sequence_length"])


def with_sizes(
    config: dict[str, Any], vocab_size: Callable[[], int], row_length: Callable[[dict[str, Any]], int]
) -> dict[str, Any]:
    """The configuration with a number for every size that is 0 in it, and without the section `assumed`.

    Args:
      config: a whole configuration of pre-training. It is not changed.
      vocab_size: called if config.model.vocab_size is 0.
      row_length: called with the section `data` of each stage that has no row length of its own.

    Raises:
      ValueError: a size is still 0, or config.stages is malformed.
    """
    lengths = [
        stage.config["data"]["sequence_length"] or row_length(stage.config["data"])
        for stage in make_stages(without_end(config))
    ]
    model = config["model"] | {"vocab_size": config["model"]["vocab_size"] or vocab_size()}
    for key, value in (("model.vocab_size", model["vocab_size"]), ("data.sequence_length", min(lengths))):
        if value == 0:
            raise ValueError(
                f"config.{key}: got 0, which means that of the datasets, but this command knows none and the "
                f"recipe's section `assumed` does not have it. Pass --config.{key}=N."
            )
    objective = config["objective"]
    if needs_chunk_size(objective):
        objective = objective | {"vocab_chunk_size": chunk_size_of(model["vocab_size"])}
    filled = config | {
        "model": model,
        "objective": objective,
        "data": config["data"] | {"sequence_length": lengths[0]},
        "stages": _with_lengths(config["stages"], lengths),
    }
    filled.pop(ASSUMED, None)
    return filled


def needs_chunk_size(objective: dict[str, Any]) -> bool:
    """Whether the 0 of a section config.objective stands for a suitable size of chunks, and not for all of
    the vocabulary."""
    return find_row(objective["name"]).needs_chunks and objective["vocab_chunk_size"] == 0


def _with_lengths(entries: Any, lengths: list[int]) -> tuple[tuple[int, dict[str, Any]], ...]:
    """config.stages, in which every entry names its row length if it did before or if the length changes."""
    filled = []
    for (first_step, changes), before, length in zip(entries, lengths, lengths[1:], strict=False):
        names_it = "data.sequence_length" in changes or length != before
        filled.append((first_step, changes | ({"data.sequence_length": length} if names_it else {})))
    return tuple(filled)
