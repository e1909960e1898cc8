"""Hints on an encoder's shape that a command line changes in part."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from electra_jax.models.config import encoder_shape
from electra_jax.models.family import FAMILIES


def shape_hints(argv: Sequence[str], values: Mapping[str, Any]) -> Iterator[str]:
    """A warning for each encoder whose hidden_size is given on the command line, while values that published
    models derive from it are not, and no longer fit.

    Args:
      argv: the command line.
      values: the whole configuration with the values of the command line, by keys such as
        "model.generator.hidden_size".
    """
    given = {match[1] for word in argv if (match := re.match(r"--?config\.([\w.]+)", word))}
    for key in sorted(name for name in given if name.endswith(".hidden_size") and name in values):
        section = key.removesuffix(".hidden_size")
        family = FAMILIES.get(values["model.position"])
        if family is None:  # an error, which the check of values reports
            continue
        usual = encoder_shape(values[key], values[f"{section}.num_layers"])
        usual["intermediate_size"] = round(family.inner_width * values[key])
        differing = [
            name
            for name in ("intermediate_size", "num_heads")
            if f"{section}.{name}" not in given and values[f"{section}.{name}"] != usual[name]
        ]
        if differing:
            kept = " and ".join(f"{name}={values[f'{section}.{name}']}" for name in differing)
            flags = " ".join(f"--config.{section}.{name}={usual[name]}" for name in differing)
            yield (
                f"WARNING: --config.{key}={values[key]} is given, and the recipe's {kept} stays. "
                "Most published models have heads of 64 and a feed-forward layer of "
                f"{family.inner_width:g} · hidden_size. For these add {flags}."
            )
