"""How a recipe changes with the objective that it trains."""

from collections.abc import Mapping
from typing import Any

from ml_collections import config_dict

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


def check_given_settings(section: dict[str, Any], recipe: Mapping[str, Any]) -> None:
    """Raises ValueError for each value of config.objective that is not that of the recipe and that the
    objective does not read. Recipes hold such keys, since several objectives share them.

    Args:
      section: config.objective with the values of the command line.
      recipe: the configuration without them, flat: "objective.disc_weight" → its value.
    """
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


def clean_objective(section: dict[str, Any]) -> dict[str, Any]:
    """config.objective without the keys that its objective does not read, and with all that it reads; for
    configurations of older runs, which have the keys of all objectives.

    Raises:
      ValueError: there is no such objective.
    """
    from electra_jax.objectives.registry import own_settings  # here for the reason above

    return own_settings(section)
