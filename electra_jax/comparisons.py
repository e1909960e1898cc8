"""What `electra_jax.compare` compares: suites of variants, and what is measured of their runs.

Shapes: V vocab, E embedding_size.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import numpy as np

from electra_jax.distributed.mesh import make_mesh
from electra_jax.models.pretraining import PretrainingModel
from electra_jax.objectives.mcl import ADDED, INSERTED, SWAPPED, with_nothing_but
from electra_jax.soup_inputs import open_ingredient
from electra_jax.soup_scores import HELD_OUT, held_out
from electra_jax.trained_run import load_run

Figures = dict[str, float]
SUMMARY = {"mlm_loss": "heldout_mlm_loss", "rtd_auc": "heldout_rtd_auc"}


class Suite(NamedTuple):
    """variants: name → values of the configuration that it changes; the first sets the number of FLOPs. measure: (run
    directory, its summary) → figures. soups: name → the variants that it is the average of; measure_soup: (run directory) →
    the same figures."""

    variants: Mapping[str, Mapping[str, Any]]
    measure: Callable[[Path, dict[str, Any]], Figures]
    soups: Mapping[str, tuple[str, ...]] = MappingProxyType({})
    measure_soup: Callable[[Path], Figures] | None = None


def measure_summary(run_directory: Path, summary: dict[str, Any]) -> Figures:
    """Held-out loss and AUC."""
    del run_directory
    return {name: summary[key] for name, key in SUMMARY.items()}


def measure_embeddings(run_directory: Path, summary: dict[str, Any]) -> Figures:
    """Held-out loss and AUC, and how alike the words of each table are on average."""
    trained = load_run(run_directory)
    model = PretrainingModel(trained.model)
    tables = jax.jit(lambda params: model.apply({"params": params}, method="word_tables"))(trained.params)
    return measure_summary(run_directory, summary) | {
        f"{name}_cosine": average_cosine(np.asarray(tables[name])) for name in ("generator", "discriminator")}


def average_cosine(table_VE: np.ndarray) -> float:
    """Mean cosine of all pairs of different rows, from the length of the sum of the unit rows: (‖Σû‖² − V) / (V(V − 1))."""
    table_VE = table_VE.astype(np.float64)
    unit_VE = table_VE / np.linalg.norm(table_VE, axis=1, keepdims=True)
    rows = len(unit_VE)
    return float((np.square(unit_VE.sum(0)).sum() - rows) / (rows * (rows - 1)))


def measure_soup(run_directory: Path) -> Figures:
    """Held-out loss and AUC of an average, which no run has measured, on the rows and with the masks of its ingredients."""
    ingredient = open_ingredient(run_directory, None)
    with held_out(ingredient, make_mesh(ingredient.config["mesh"]), ingredient.datasets) as compute:
        numbers = compute(load_run(run_directory).params)
    return {name: numbers[key.removeprefix(HELD_OUT)] for name, key in SUMMARY.items()}


# Variant → changes of MCL's recipe.
COURSES = {name: {f"objective.{key}": value for key, value in with_nothing_but(*added).items()}
           for name, added in {"rtd": (), "rtd_std": SWAPPED, "rtd_std_itd": SWAPPED + INSERTED, "mcl": ADDED}.items()}
SUITES = {
    "embedding_sharing": Suite({sharing: {"model.embedding_sharing": sharing} for sharing in ("tied", "none", "gdes")},
                               measure_embeddings),
    "courses": Suite(COURSES, measure_summary, {"soup": tuple(COURSES)}, measure_soup),
}
