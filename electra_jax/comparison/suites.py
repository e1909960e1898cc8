"""The suites of `electra_jax.compare`: variants of a recipe, and what is measured of their runs.

Shapes: V vocab, E embedding_size.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import config_dict

from electra_jax.comparison.backbones import check_recipe, to_modernbert
from electra_jax.configuration.datasets_read import read_datasets, tokens_read
from electra_jax.configuration.objectives import apply_objective
from electra_jax.distributed.mesh import make_mesh
from electra_jax.models.inputs import SpecialTokens
from electra_jax.models.pretraining import PretrainingModel
from electra_jax.objectives.course_weights import ADDED, INSERTED, SWAPPED, only_courses
from electra_jax.objectives.registry import OBJECTIVES, make_objective
from electra_jax.objectives.row import ObjectiveRow
from electra_jax.runs.trained import load_run, read_description
from electra_jax.soups.ingredients import Ingredient, open_ingredient
from electra_jax.soups.scores import HELD_OUT, held_out

Metrics = dict[str, float]
Change = Callable[[config_dict.ConfigDict], None]  # changes the configuration in place
SUMMARY = {"mlm_loss": "heldout_mlm_loss", "rtd_auc": "heldout_rtd_auc"}  # metric → key of summary.json


class Suite(NamedTuple):
    """Variants of a recipe to compare."""

    # Name → the changes that make the variant, one per run; each run starts from the one before. The first
    # variant has a single run, which sets the number of FLOPs of all.
    variants: Mapping[str, tuple[Change, ...]]
    measure: Callable[[Path, dict[str, Any]], Metrics]  # (run directory, its summary) → metrics
    soups: Mapping[str, tuple[str, ...]] = MappingProxyType({})  # name → variants whose average it is
    measure_soup: Callable[[Path], Metrics] | None = None  # run directory → the same metrics
    keeps_curves: bool = False  # whether reference curves are written of its first variant
    # Name of newly initialised weights on the tasks → the variants whose shapes they have.
    shapes: Mapping[str, tuple[str, ...]] = MappingProxyType({})

    def random_starts(self, names: Sequence[str]) -> dict[str, str]:
        """Name of newly initialised weights → a variant with their shapes, of those with these names."""
        if not self.shapes:
            return {"random": names[0]} if names else {}
        having = {random: [name for name in names if name in same] for random, same in self.shapes.items()}
        return {random: same[0] for random, same in having.items() if same}

    def check_variants(self, names: Sequence[str]) -> None:
        """Raises ValueError for a name that is not that of a variant."""
        unknown = [name for name in names if name not in self.variants]
        if unknown:
            raise ValueError(
                f"--variants: got {', '.join(unknown)}, expected some of {', '.join(self.variants)}."
            )


def setting(values: Mapping[str, Any]) -> Change:
    """The change that sets values of the configuration, by their keys."""
    return lambda config: config.update_from_flattened_dict(values)


def objective(name: str, values: Mapping[str, Any] = MappingProxyType({})) -> Change:
    """The change to another objective, and to other values of config.objective."""

    def change(config: config_dict.ConfigDict) -> None:
        apply_objective(config, name)
        config.objective.update(values)

    return change


def together(*changes: Change) -> Change:
    """The change that makes all of `changes`, in their order."""

    def change(config: config_dict.ConfigDict) -> None:
        for one in changes:
            one(config)

    return change


def ablation(row: ObjectiveRow) -> tuple[Change, ...]:
    """The runs of an objective; if it is the second of two stages, the runs of both."""
    if row.first_stage is None:
        return (objective(row.name),)

    def first_stage(config: config_dict.ConfigDict) -> None:
        apply_objective(config, row.name)  # for its model, which both stages have
        apply_objective(config, row.first_stage.objective)

    return first_stage, objective(row.name)


def measure_summary(run_directory: Path, summary: dict[str, Any]) -> Metrics:
    """Held-out loss and AUC; an objective may lack one of them, and one that is undefined is left out."""
    del run_directory
    return _defined({name: summary.get(key) for name, key in SUMMARY.items()})


def _defined(numbers: Mapping[str, float | None]) -> Metrics:
    """The numbers that are finite; summary.json has null for others."""
    return {name: value for name, value in numbers.items() if value is not None and math.isfinite(value)}


def measure_embeddings(run_directory: Path, summary: dict[str, Any]) -> Metrics:
    """Held-out loss and AUC, and the average cosine of two words' embeddings in each table."""
    trained = load_run(run_directory)
    model = PretrainingModel(trained.model)
    tables = jax.jit(lambda params: model.apply({"params": params}, method="word_tables"))(trained.params)
    return measure_summary(run_directory, summary) | {
        f"{name}_cosine": average_cosine(np.asarray(tables[name])) for name in ("generator", "discriminator")
    }


def average_cosine(table_VE: np.ndarray) -> float:
    """Mean cosine of all pairs of different rows, from the length of the sum of the unit rows: (‖Σû‖² − V) /
    (V(V − 1))."""
    table_VE = table_VE.astype(np.float64)
    unit_VE = table_VE / np.linalg.norm(table_VE, axis=1, keepdims=True)
    rows = len(unit_VE)
    return float((np.square(unit_VE.sum(0)).sum() - rows) / (rows * (rows - 1)))


def measure_backbone(run_directory: Path, summary: dict[str, Any]) -> Metrics:
    """AUC, and the held-out loss with the masks of `EQUAL_MASKS`, whatever the run was trained with; losses
    with different masks could not be compared."""
    ingredient = open_ingredient(run_directory, None)
    trained_with = ingredient.config["objective"]
    masks = {key: value for key, value in EQUAL_MASKS.items() if key in trained_with}
    config = ingredient.config | {"objective": trained_with | masks}
    special = SpecialTokens.from_ids(ingredient.tokenizer.special)
    equal = ingredient._replace(objective=make_objective(config, ingredient.model, special))
    auc = {
        name: value for name, value in measure_summary(run_directory, summary).items() if name != "mlm_loss"
    }
    return {name: value for name, value in _held_out(equal).items() if name == "mlm_loss"} | auc


def measure_objective(run_directory: Path, summary: dict[str, Any]) -> Metrics:
    """As `measure_backbone`; also the hours that the steps took, without evaluations and compilation, unless
    the run was too short to measure its speed or does not tell how many tokens its rows have."""
    metrics, tokens_per_second = measure_backbone(run_directory, summary), summary["tokens_per_second"]
    if tokens_per_second is None:
        return metrics
    config, steps = read_description(run_directory)["config"], summary["steps"]
    # The speed does not count padding either.
    tokens = tokens_read(config, read_datasets(run_directory, config, steps), steps)
    return metrics | ({"hours": tokens / tokens_per_second / 3600} if tokens else {})


def measure_soup(run_directory: Path) -> Metrics:
    """Held-out loss and AUC of an average of runs, on the held-out rows and masks of those runs."""
    return _held_out(open_ingredient(run_directory, None))


def _held_out(ingredient: Ingredient) -> Metrics:
    with held_out(ingredient, make_mesh(ingredient.config["mesh"]), ingredient.datasets) as compute:
        numbers = compute(load_run(ingredient.workdir, ingredient.step).params)
    measured = {name: key.removeprefix(HELD_OUT) for name, key in SUMMARY.items()}
    return _defined({name: numbers.get(key) for name, key in measured.items()})


# The rest of the chosen tokens stays as it is.
BERT_MASKING = {"mask_token_prob": 0.8, "random_token_prob": 0.1}
EQUAL_MASKS = {"denoisers": (), "mask_prob": 0.15, "mask_token_prob": 1.0, "random_token_prob": 0.0}
COURSES = {
    name: (setting({f"objective.{key}": value for key, value in only_courses(*added).items()}),)
    for name, added in {
        "rtd": (),
        "rtd_std": SWAPPED,
        "rtd_std_itd": SWAPPED + INSERTED,
        "mcl": ADDED,
    }.items()
}
ABLATIONS = {row.name: ablation(row) for row in OBJECTIVES.values() if row.in_ablations} | {
    "bert": (objective("mlm", BERT_MASKING),),
    "unigram": (objective("electra", {"generator": "unigram"}),),
    "uniform": (objective("electra", {"generator": "uniform"}),),
}
# Families → the change from a recipe of DeBERTaV3; objectives → the change from its own.
FAMILIES = {"deberta": check_recipe, "modernbert": together(check_recipe, to_modernbert)}
MASKINGS = {
    "rtd": setting({}),
    "mlm_30": objective("mlm", {"mask_prob": 0.3, **BERT_MASKING}),  # the share of ModernBERT
    "mlm_15": objective("mlm", {"mask_prob": 0.15, **BERT_MASKING}),  # the share of BERT
}
BACKBONES = {
    f"{family}_{name}": (together(model, masking),)
    for family, model in FAMILIES.items()
    for name, masking in MASKINGS.items()
}
ALL_MASKED = {"mask_token_prob": 1.0, "random_token_prob": 0.0}
MAIN_OBJECTIVES = {
    "deberta_v3": (objective("deberta_v3"),),
    "electra": (objective("electra"),),
    "mlm_80_10_10": (objective("mlm", BERT_MASKING),),
    "mlm_mask": (objective("mlm", ALL_MASKED),),
}
SHARINGS = {sharing: (setting({"model.embedding_sharing": sharing}),) for sharing in ("tied", "none", "gdes")}
SUITES = {
    "ablations": Suite(ABLATIONS, measure_summary),
    "backbones": Suite(
        BACKBONES,
        measure_backbone,
        shapes={
            f"{family}_random": tuple(name for name in BACKBONES if name.startswith(family))
            for family in FAMILIES
        },
    ),
    "courses": Suite(COURSES, measure_summary, {"soup": tuple(COURSES)}, measure_soup),
    "embedding_sharing": Suite(SHARINGS, measure_embeddings),
    "objectives": Suite(MAIN_OBJECTIVES, measure_objective),
    "reference": Suite({"recipe": (setting({}),)}, measure_summary, keeps_curves=True),
}
