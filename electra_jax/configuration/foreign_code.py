"""Which values of a configuration from a run directory name code. A directory may come from anybody."""

import shlex
import sys
from pathlib import Path
from typing import Any

from electra_jax.configuration.migration import DEFAULTS_OF_LATER_KEYS
from electra_jax.configuration.recipes import RECIPES, own_recipe

OWN_PROBE = DEFAULTS_OF_LATER_KEYS["probe"]["config"]


def is_own_recipe(argument: str) -> bool:
    """Whether FILE.py[:argument] is one of this project's recipes, as a probe finds it."""
    path = Path(own_recipe(argument).partition(":")[0])
    return path.is_file() and path.resolve().is_relative_to(RECIPES.resolve())


def without_code(config: dict[str, Any], where: str) -> dict[str, Any]:
    """The configuration without values that would make a run execute a file: a probe's recipe that is not
    this project's, and trackers of other modules. A line on stderr has the flags for each of the two.

    Args:
      config: a whole configuration of pre-training.
      where: what it comes from, for the lines.
    """
    trackers, probe = config["log"]["trackers"], config["probe"]
    listed = trackers.split(",") if isinstance(trackers, str) else list(trackers)
    kept = [name for name in listed if ":" not in str(name)]
    left_out = []
    config = config | {"log": config["log"] | {"trackers": kept}}
    if kept != listed:  # one flag with all of them, since of several the last counts
        left_out.append([f"--config.log.trackers={','.join(map(str, listed))}"])
    if not is_own_recipe(probe["config"]):
        left_out.append([f"--config.probe.{key}={probe[key]}" for key in ("every", "config")])
        config |= {"probe": probe | {"every": 0, "config": OWN_PROBE}}
    for flags in left_out:
        print(
            f"{where}: not taken over, since it is code: pass {shlex.join(flags)} if you trust it.",
            file=sys.stderr,
        )
    return config
