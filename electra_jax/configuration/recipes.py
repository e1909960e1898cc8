"""Finding and loading recipes: configuration files, whose get_config returns a configuration.

This project's are in configs/ of the checkout, and in the folder "recipes" of an installed package. They are
found as configs/FILE.py from any working directory. A file there of that name comes first where a flag names
it, but not where a default or config.probe does.
"""

import importlib.machinery
import importlib.util
import sys
from collections.abc import Callable, Container, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import config_dict

from data_pipelines.home_directory import expand_home, expand_home_in

PACKAGE = Path(__file__).parents[1]
FOLDER = "configs"  # what commands and recipes call RECIPES
# setup.py installs configs/ as electra_jax/recipes, since a package "configs" would be in everybody's way.
RECIPES = PACKAGE / "recipes" if (PACKAGE / "recipes").is_dir() else PACKAGE.parent / FOLDER


class Kind(NamedTuple):
    """What the configurations that a command takes have in common."""

    sections: tuple[str, ...]  # which the other kinds do not have all
    example: str
    # Of a command that also trains other objectives: (flags, the recipe's values by key) → None; raises
    # ValueError for values on the command line that none of them reads.
    check_given: Callable[[Any, Mapping[str, Any]], None] | None = None


PRETRAINING = Kind(("model", "objective", "data", "train"), "configs/electra.py:size=small")
FINETUNING = Kind(("task", "model", "optimizer", "sift", "train"), "configs/finetune.py:task=trec6")
EVALUATION = Kind(("tasks",), "configs/evaluate.py:data=DIR")


def check_kind(config: Container[str], kind: Kind, what: str) -> None:
    """Raises ValueError, with `what` as the start of its message, for a configuration of another kind."""
    missing = [section for section in kind.sections if section not in config]
    if missing:
        raise ValueError(
            f"{what} without {', '.join(missing)}, expected a configuration such as {kind.example}."
        )


def load_config(argument: str) -> config_dict.ConfigDict:
    """What get_config of FILE.py[:argument] returns.

    Raises:
      FileNotFoundError: no such file. ValueError: not a configuration file, or it rejects its argument.
    """
    path, _, argument_of_config = find_recipe(expand_home(argument)).partition(":")
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"--config={argument}: there is no file {path}, neither here nor in this project. Its "
            f"recipes are in {RECIPES}."
        )
    spec = importlib.util.spec_from_file_location("config", path)
    if spec is None:
        raise ValueError(f"--config={argument}: expected a Python file with get_config, got {path}.")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
        raise ValueError(
            f"--config={argument}: {Path(path).absolute()} has no get_config, expected a configuration file. "
            f"This project's own recipes are in {RECIPES}."
        )
    try:
        config = module.get_config(argument_of_config or None)
    except ValueError as error:
        raise ValueError(f"--config={argument}: {error}") from error
    expand_home_of_config(config)
    return config


def find_recipe(argument: str) -> str:
    """FILE.py[:argument] as given or, for configs/… where that file does not exist, with its path in
    RECIPES."""
    path, colon, argument_of_config = argument.partition(":")
    if not Path(path).exists() and Path(path).parts[:1] == (FOLDER,):
        found = RECIPES.joinpath(*Path(path).parts[1:])
        path = str(found) if found.is_file() else path
    return path + colon + argument_of_config


def own_recipe(argument: str) -> str:
    """FILE.py[:argument] with its path in RECIPES if it is configs/… and one of this project's, whatever the
    working directory holds; otherwise as given."""
    path, colon, argument_of_config = argument.partition(":")
    own = RECIPES / path.removeprefix(f"{FOLDER}/")
    if path.startswith(f"{FOLDER}/") and own.is_file():
        path = str(own)
    return path + colon + argument_of_config


def expand_home_of_config(config: config_dict.ConfigDict) -> None:
    """Replace ~ in every text of a configuration, in place. Raises ValueError as `expand_home` does."""
    with config.ignore_type():
        for key, value in config.items():
            if isinstance(value, config_dict.ConfigDict):
                expand_home_of_config(value)
            elif (expanded := expand_home_in(value)) != value:
                config[key] = expanded


def _make_importable() -> None:
    """Let recipes import each other as configs.NAME, wherever RECIPES lies. Other folders of that name, which
    the import path has, serve what RECIPES lacks."""
    others = [str(Path(folder, FOLDER).absolute()) for folder in sys.path]
    places = [str(RECIPES), *(place for place in others if Path(place).is_dir() and place != str(RECIPES))]
    known = sys.modules.get(FOLDER)
    if known is not None:
        places = [*dict.fromkeys([*known.__path__, *places])] if hasattr(known, "__path__") else places
        known.__path__ = places
        return
    spec = importlib.machinery.ModuleSpec(FOLDER, None, is_package=True)
    spec.submodule_search_locations = places
    sys.modules[FOLDER] = importlib.util.module_from_spec(spec)


_make_importable()
