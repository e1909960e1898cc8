"""Names in place of paths. What is published tells what a run and its data are called, not where they lay:
paths tell the names of people, customers and machines."""

import re
import shlex
from collections.abc import Sequence
from typing import Any

# Keys of configurations and descriptions whose values, if they are strings, are places.
PLACES = (
    "datasets",
    "init_from",
    "train",
    "validation",
    "test",
    "source",
    "start",
    "imported_from",
    "config",
)
NOT_PUBLISHED = ("imported",)  # notes of an import for its user, with paths in them
# Words that are before a place or in its stead, and parts of the package.
_IS_NAME = re.compile(r"(tfds|sample):|configs/[\w./]*\.py")
_PREFIX = re.compile(r"random:")
_RECIPES = re.compile(r".*/(?=configs/\w+\.py)")
_SEPARATORS = re.compile(r"([=,'\"\s()\[\]{}]+)")


def name_of(place: str) -> str:
    """The last part of a path or URL, and of each in a list with commas. `tfds:glue/sst2` stays."""
    return ",".join(map(_name, place.split(",")))


def _name(place: str) -> str:
    place = place.strip()
    if _IS_NAME.match(place):
        return place
    prefix = match[0] if (match := _PREFIX.match(place)) else ""
    place = _RECIPES.sub("", place.removeprefix(prefix))
    if _IS_NAME.match(place):
        return place
    return prefix + place.rstrip("/").rpartition("/")[2]


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
    return shlex.join(map(_public_argument, command))


def _public_argument(argument: str) -> str:
    flag = argument.partition("=")[0]
    if flag.startswith("--config.optimizer"):  # patterns of parameters, which look like paths
        return argument
    parts = _SEPARATORS.split(argument)
    return "".join(part if index % 2 else _name(part) for index, part in enumerate(parts))
