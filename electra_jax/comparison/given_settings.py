"""Values of config.objective on the command line of a comparison that change none of its variants."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import config_dict

from data_pipelines.problems import Problems
from electra_jax.comparison.equal_flops import changed
from electra_jax.comparison.suites import SUITES, Change
from electra_jax.configuration.checks import wrong_values
from electra_jax.configuration.sizes import with_assumed_sizes
from electra_jax.objectives.registry import settings_not_read

RUNS = ("*/seed_*/config.json", "*/*/seed_*/config.json")  # of one length; of stages and of several lengths


def check_given_to_suite(flag_values: flags.FlagValues, recipe: Mapping[str, Any]) -> None:
    """Raises ValueError for each value of config.objective that is not that of the recipe and that no variant
    of --suite reads. A comparison that has begun keeps it.

    Args:
      flag_values: those of `compare`.
      recipe: the configuration without the values of the command line, flat.
    """
    section, suite, workdir = flag_values.config.objective, flag_values.suite, flag_values.workdir
    given = [key for key, value in section.items() if value != recipe.get(f"objective.{key}")]
    values = flag_values.config.to_dict()
    if not given or wrong_values(values) or (workdir and any(map(any, map(Path(workdir).glob, RUNS)))):
        return  # wrong values are told before any training; some variants' shapes cannot be computed of them
    config = config_dict.ConfigDict(with_assumed_sizes(values))  # the data is not open yet
    problems, variants = Problems(), sum(SUITES[suite].variants.values(), ())
    for key in given:
        without = config.copy_and_resolve_references()
        without.objective[key] = recipe[f"objective.{key}"]
        if all(_read(config, change) == _read(without, change) for change in variants):
            problems.add_text(
                f"--config.objective.{key}: got {section[key]!r}, but no variant of --suite={suite} reads "
                "it: their objectives do not, or they set it themselves. Leave it out."
            )
    problems.report()


def _read(config: config_dict.ConfigDict, change: Change) -> dict[str, Any]:
    """The configuration of a variant without what its objective does not read."""
    variant = changed(config, change, seed=0)
    unread = settings_not_read(variant["objective"])
    return variant | {"objective": {k: v for k, v in variant["objective"].items() if k not in unread}}
