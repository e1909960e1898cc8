"""What configurations of older runs lack, read from their files."""

from typing import Any

from electra_jax.configuration.objectives import clean_objective

# Keys of a configuration that older runs do not have, and what held for these.
DEFAULTS_OF_LATER_KEYS = {
    "stages": [],
    "train.ema_decay": 0.0,
    "objective.generator": "model",
}


def upgrade_config(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration of a run, read from a file, with all keys that a run has today."""
    config = {
        name: dict(section) if isinstance(section, dict) else section for name, section in config.items()
    }
    for key, value in DEFAULTS_OF_LATER_KEYS.items():
        section, _, name = key.rpartition(".")
        (config[section] if section else config).setdefault(name, value)
    # Older runs have the keys of all objectives.
    config["objective"] = clean_objective(config["objective"])
    return config
