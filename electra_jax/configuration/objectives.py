"""How a recipe changes with the objective that it trains."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import config_dict

from data_pipelines.buckets import bucket_url, is_bucket, read_object
from data_pipelines.problems import Problems


def apply_objective(config: config_dict.ConfigDict, name: str) -> None:
    """Change a whole configuration, in place, to the objective `name`.

    Sets config.objective.name, removes the keys of config.objective that this objective does not read, adds
    those that it reads, at the defaults of its row where the configuration has no value, and makes the
    changes elsewhere in the configuration that it requires (`ObjectiveRow.adapt`).

    Raises:
      ValueError: there is no such objective.
    """
    # Imported here: recipes import this module, and importing a recipe must not import JAX.
    from electra_jax.objectives.registry import find_row

    row = find_row(name)
    config.objective.name = name
    settings = clean_objective(config.objective.to_dict())
    with config.objective.unlocked():
        for key in set(config.objective) - set(settings):
            del config.objective[key]
        config.objective.update({key: settings[key] for key in settings if key not in config.objective})
    row.adapt(config)


def check_given(flag_values: flags.FlagValues, recipe: Mapping[str, Any]) -> None:
    """Check the values of config.objective on a command line. Recipes hold keys that their objective does not
    read, since several objectives share them, and a run that has begun keeps its values.

    Args:
      flag_values: those of a command with --config and, if it has one, with --workdir.
      recipe: the configuration without the values of the command line, flat: "objective.disc_weight" → its
        value.

    Raises:
      ValueError: names each value that is not the recipe's and that the objective does not read.
      OSError: that is so, and --workdir is in a bucket that cannot be read.
    """
    try:
        _check_section(flag_values.config.objective.to_dict(), recipe)
    except ValueError:  # only now, since a bucket takes its time to answer
        if not _has_begun(flag_values["workdir"].value if "workdir" in flag_values else None):
            raise


def _check_section(section: dict[str, Any], recipe: Mapping[str, Any]) -> None:
    from electra_jax.objectives.registry import settings_not_read  # here for the reason above

    problems, name = Problems(), f"objective {section['name']!r}"
    if section["generator"] != "model":
        name += f" with generator {section['generator']!r}"
    for key in settings_not_read(section):
        if key in section and section[key] != recipe.get(f"objective.{key}"):
            problems.add_text(
                f"--config.objective.{key}: got {section[key]!r}, but {name} does not read it. Leave it out."
            )
    problems.report()


def _has_begun(workdir: str | None) -> bool:
    """Whether there is a run in --workdir."""
    if workdir is None or not is_bucket(workdir):
        return workdir is not None and Path(workdir, "config.json").is_file()
    try:
        read_object(f"{bucket_url(workdir)}/config.json")
    except FileNotFoundError:
        return False
    except ImportError:  # whatever it holds: the command will end, and say what to install
        return True
    return True


def clean_objective(section: dict[str, Any]) -> dict[str, Any]:
    """config.objective without the keys that its objective does not read, and with all that it reads; for
    configurations of older runs, which have the keys of all objectives.

    Raises:
      ValueError: there is no such objective.
    """
    from electra_jax.objectives.registry import own_settings  # here for the reason above

    return own_settings(section)
