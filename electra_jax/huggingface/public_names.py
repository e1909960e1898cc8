"""Names in place of paths. What is published has the names of a run and its data, not their places: paths
contain names of people, customers and machines."""

import ast
import re
import shlex
from collections.abc import Sequence
from typing import Any

# Keys of configurations and descriptions whose values, if they are strings, are places.
PLACES = (
    "datasets",
    "init_from",
    "teachers",
    "train",
    "validation",
    "test",
    "source",
    "start",
    "imported_from",
    "config",
    "minimal_pairs",
)
NOT_PUBLISHED = ("imported",)  # notes of an import for its user, with paths in them
_IS_NAME = re.compile(r"sample:.*|tfds:\w+(/[\w.+-]+)?(:[\w.*]+)?(@.*)?")  # datasets, which are public
_PREFIX = re.compile(r"random:|tfds:|\w+=")  # before a place
# A recipe, which may be part of the package, and the value of its first argument.
_RECIPE = re.compile(r"(?:.*?/)??((?:configs/)?\w+\.py(?:$|:(?:\w+=)?))(.*)")
_COORDINATOR = ("--coordinator", "-coordinator")  # a flag whose value names a machine


def name_of(place: str) -> str:
    """The last part of a path or URL, and of each in a list with commas. `tfds:glue/sst2` stays."""
    return ",".join(map(_name, place.split(",")))


def _name(place: str) -> str:
    place = place.strip()
    if _IS_NAME.fullmatch(place):
        return place
    if match := _RECIPE.fullmatch(place):
        return match[1] + _last_part(match[2])
    prefix = match[0] if (match := _PREFIX.match(place)) else ""
    return prefix + _last_part(place.removeprefix(prefix))


def _last_part(place: str) -> str:
    return place.rstrip("/").rpartition("/")[2]


def public_description(value: Any, key: str = "") -> Any:
    """What is published of a run's config.json, or of the description of a fine-tuned model: the same with
    names for places."""
    if isinstance(value, dict):
        return {
            name: public_description(child, name.rpartition(".")[2])
            for name, child in value.items()
            if name not in NOT_PUBLISHED
        }
    if isinstance(value, list | tuple):
        return [public_description(child, key) for child in value]
    return name_of(value) if isinstance(value, str) and key in PLACES else value


def public_command(command: Sequence[str]) -> str:
    """A command for a shell, with names for the places in its flags."""
    pairs = zip(["", *command], command, strict=False)
    return shlex.join(
        "HOST:PORT" if before in _COORDINATOR else _public_argument(argument) for before, argument in pairs
    )


def _public_argument(argument: str) -> str:
    flag, equals, value = argument.partition("=") if argument.startswith("-") else ("", "", argument)
    if flag in _COORDINATOR and equals:
        return f"{flag}=HOST:PORT"
    # Patterns of parameters look like paths.
    if "/" not in value or flag.startswith("--config.optimizer"):
        return argument
    try:
        public = repr(_public_value(ast.literal_eval(value)))
    except (SyntaxError, TypeError, ValueError):
        public = name_of(value)
    return flag + equals + public


def _public_value(value: Any) -> Any:
    """A value of Python's syntax with names for all of its strings."""
    if isinstance(value, dict):
        return {key: _public_value(child) for key, child in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(_public_value, value))
    return name_of(value) if isinstance(value, str) else value
