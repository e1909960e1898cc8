"""How the configuration of a run differs from its recipe, and those of several runs from each other."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from flax.traverse_util import flatten_dict

from electra_jax.configuration.flags import recipe_of
from electra_jax.configuration.recipes import FOLDER, RECIPES, load_config, own_recipe
from electra_jax.runs.directory import may_change

ABSENT = "–"


class Difference(NamedTuple):
    """A setting with different values."""

    key: str  # such as optimizer.learning_rate
    values: list[Any]  # of the recipe and the run, or of each run
    is_given: bool  # by a flag of the command; False between runs


class RecipeDifference(NamedTuple):
    """A run and its recipe."""

    recipe: str  # FILE.py[:argument] as given; "" if unknown
    problem: str  # why there is no comparison; "" if there is
    settings: list[Difference]


def flat(config: dict[str, Any]) -> dict[str, Any]:
    """Key → value; lists for tuples, as in JSON."""
    return {key: _as_json(value) for key, value in flatten_dict(config, sep=".").items()}


def difference_to_recipe(config: dict[str, Any], command: Sequence[Any]) -> RecipeDifference:
    """Compare a run's configuration with the recipe that its first command names.

    Only this project's own recipes are loaded: a recipe is a program, and the command may be anybody's.
    """
    words = [word for word in command if isinstance(word, str)]
    flags = [word.partition("=")[0].lstrip("-") for word in words if word.startswith("-")]
    given = {flag.removeprefix("config.") for flag in flags if flag.startswith("config.")}
    try:
        recipe = recipe_of(words)
    except ValueError:  # two of them; no run has started so
        recipe = None
    if not recipe:
        return RecipeDifference("", "The command that started the run is not recorded.", [])
    path = own_recipe(recipe).partition(":")[0]
    if not recipe.startswith(f"{FOLDER}/") or ".." in recipe or not path.startswith(str(RECIPES)):
        problem = (
            "It is not one of this project's recipes, so it is not loaded. The flags are in the command."
        )
        return RecipeDifference(recipe, problem, [])
    if "://" in recipe:  # a page is made without the network
        return RecipeDifference(recipe, "It reads a bucket, so it is not loaded.", [])
    try:
        theirs = flat(load_config(own_recipe(recipe)).to_dict())
    except (ValueError, OSError, KeyError, TypeError, AttributeError) as error:
        return RecipeDifference(recipe, f"It could not be loaded: {error}", [])
    ours = flat(config)
    settings = [
        Difference(key, [theirs.get(key, ABSENT), ours.get(key, ABSENT)], key in given)
        for key in sorted(theirs.keys() | ours.keys())
        if theirs.get(key, ABSENT) != ours.get(key, ABSENT) and not key.startswith("assumed.")
    ]
    return RecipeDifference(recipe, "", settings)


def differences_between(configs: Sequence[dict[str, Any]]) -> list[Difference]:
    """The settings in which runs differ; first those that affect the training."""
    flats = [flat(config) for config in configs]
    keys = sorted(set().union(*flats), key=lambda key: (may_change(f"config.{key}"), key))
    values = {key: [one.get(key, ABSENT) for one in flats] for key in keys}
    return [
        Difference(key, found, False)
        for key, found in values.items()
        if any(value != found[0] for value in found[1:])
    ]


def _as_json(value: Any) -> Any:
    return [_as_json(one) for one in value] if isinstance(value, list | tuple) else value
