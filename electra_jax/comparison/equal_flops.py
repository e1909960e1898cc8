"""Variants of a recipe that all cost the same FLOPs: their runs, and how many steps each run takes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ml_collections import config_dict

from electra_jax.comparison.suites import Change
from electra_jax.configuration.length import with_scaled_schedule
from electra_jax.models.config import make_pretraining_config
from electra_jax.objectives.registry import forward_flops


def equal_steps(reference: dict[str, Any], *variants: dict[str, Any]) -> int:
    """Number of steps at which one run of each of `variants` together cost as many FLOPs as `reference`.

    All are configurations; `reference` takes its train.num_steps.

    Raises:
      ValueError: `reference` has stages.
    """
    if reference["stages"]:
        raise ValueError(
            f"config.stages: got {reference['stages']!r}, expected (): runs with different numbers of steps "
            "would not have the same stages."
        )
    flops = sum(map(_flops_per_step, variants))
    return round(reference["train"]["num_steps"] * _flops_per_step(reference) / flops)


def _flops_per_step(config: dict[str, Any]) -> float:
    flops_per_token = forward_flops(config, make_pretraining_config(config["model"]))
    return flops_per_token * config["train"]["batch_size"]


def changed(config: config_dict.ConfigDict, change: Change, seed: int) -> dict[str, Any]:
    """The recipe with a change and a seed, as a new dictionary."""
    variant = config.copy_and_resolve_references()
    variant.update_from_flattened_dict({"train.seed": seed, "data.seed": seed})
    change(variant)
    return variant.to_dict()


def equal_flops_runs(
    config: config_dict.ConfigDict, reference: Change, changes: Sequence[Change], directory: Path, seed: int
) -> dict[Path, dict[str, Any]]:
    """The runs of one variant, in their order: run directory → configuration.

    Args:
      config: the recipe.
      reference: the change to the recipe whose train.num_steps sets the FLOPs.
      changes: one per run of the variant. Each run starts from the one before, and all take the same number
        of steps. Warm-up and decay keep the share that they have of the recipe's steps.
      directory: of the variant. The last run is in seed_SEED, earlier ones are in stage_N/seed_SEED.
      seed: decides the initialisation, the masks and the order of the data.

    Raises:
      ValueError: see `equal_steps`.
    """
    variants = [changed(config, change, seed) for change in changes]
    num_steps = equal_steps(changed(config, reference, seed), *variants)
    runs, init_from = {}, config.checkpoint.init_from
    for stage, variant in enumerate(variants, start=1):
        parent = directory if stage == len(variants) else directory / f"stage_{stage}"
        run_directory = parent / f"seed_{seed}"
        checkpoint = variant["checkpoint"] | {"init_from": init_from}
        runs[run_directory] = with_scaled_schedule(variant, num_steps) | {"checkpoint": checkpoint}
        init_from = str(run_directory)
    return runs
