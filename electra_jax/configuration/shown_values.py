"""What `--print_config` and `--help` show of a configuration: every value, where it comes from, and its
comment."""

import functools
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from flax.traverse_util import flatten_dict
from ml_collections import config_dict

from electra_jax.configuration.recipe_comments import comment_of
from electra_jax.configuration.recipes import load_config

WIDTH = 110
RECIPE, ARGUMENT, FLAG = "recipe", "argument", "flag"


def value_lines(config: config_dict.ConfigDict, recipe: str, argv: Sequence[str]) -> Iterator[str]:
    """A line for each value of a configuration, with its source, and lines with its comment; before a section
    its comment.

    Args:
      config: the configuration with all overrides.
      recipe: what --config names, FILE.py[:argument].
      argv: the command line, which says what was overridden.
    """
    path = recipe.partition(":")[0]
    before = _flat(load_config(recipe))
    defaults = _without_argument(path)
    comment = functools.partial(comment_of, recipe=path, is_pretraining="objective" in config)
    section, introduced = "", set()
    for key, value in _flat(config).items():
        if key.rpartition(".")[0] != section:
            section = key.rpartition(".")[0]
            yield ""
            # Its keys may be on both sides of those of a section within it.
            yield from _wrap("" if section in introduced else comment(section), "")
            introduced.add(section)
        is_flag = any(re.match(rf"--?config\.{re.escape(key)}(\[|=|$)", word) for word in argv) or (
            value != before.get(key)
        )
        source = FLAG if is_flag else RECIPE if key in defaults and defaults[key] == value else ARGUMENT
        yield f"{f'--config.{key}={_as_flag(value)}':{WIDTH - 12}s}  {source}"
        yield from _wrap(comment(key), "    ")


def _wrap(comment: str, indent: str) -> list[str]:
    # Not at hyphens: a flag or a path in a comment stays whole.
    return textwrap.wrap(
        comment, WIDTH, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False
    )


def _without_argument(path: str) -> Mapping[str, Any]:
    """The values of a recipe without an argument; {} if it needs one."""
    try:
        return _flat(load_config(path))
    except ValueError:
        return {}


def _flat(config: config_dict.ConfigDict) -> dict[str, Any]:
    return flatten_dict(config.to_dict(), sep=".")


def _as_flag(value: Any) -> str:
    """A value as it is given on the command line."""
    if isinstance(value, tuple) and all(isinstance(one, str | int | float) for one in value):
        return ",".join(map(str, value))
    return f'"{value}"' if isinstance(value, tuple) else str(value)
