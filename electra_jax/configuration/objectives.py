"""How a recipe changes with the objective that it trains."""

from typing import Any

from ml_collections import config_dict


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


def clean_objective(section: dict[str, Any]) -> dict[str, Any]:
    """config.objective without the keys that its objective does not read, and with all that it reads; for
    configurations of older runs, which have the keys of all objectives.

    Raises:
      ValueError: there is no such objective.
    """
    from electra_jax.objectives.registry import own_settings  # here for the reason above

    return own_settings(section)
