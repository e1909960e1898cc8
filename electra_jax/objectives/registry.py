"""The objectives: name → row. A new objective is a file that defines its row, and a line here."""

from collections.abc import Mapping
from typing import Any

from electra_jax.models.config import PretrainingConfig
from electra_jax.models.inputs import SpecialTokens
from electra_jax.objectives.adversarial import ADVERSARIAL
from electra_jax.objectives.all_tokens_mlm import ALL_TOKENS_MLM
from electra_jax.objectives.base import Objective
from electra_jax.objectives.deberta_v3 import DEBERTA_V3
from electra_jax.objectives.denoisers import NO_TABLES, PieceTables, computed_mask_prob
from electra_jax.objectives.distillation import DISTILLATION
from electra_jax.objectives.electra import ELECTRA
from electra_jax.objectives.electra_15 import ELECTRA_15
from electra_jax.objectives.electric import ELECTRIC
from electra_jax.objectives.fast_electra import FAST_ELECTRA
from electra_jax.objectives.fixed_generators import FIXED_GENERATORS, NOT_READ, fixed_generator_flops
from electra_jax.objectives.mcl import MCL
from electra_jax.objectives.metrics import SumMetrics
from electra_jax.objectives.mlm import MLM, Z_LOSS_METRIC
from electra_jax.objectives.prop import PROP
from electra_jax.objectives.replace_mlm import REPLACE_MLM
from electra_jax.objectives.row import FirstStage, ObjectiveRow
from electra_jax.objectives.rtd_distillation import RTD_DISTILLATION
from electra_jax.objectives.teachers import BESIDE_THE_STUDENT
from electra_jax.objectives.two_stage import TWO_STAGE

ROWS = (
    ELECTRA,
    MLM,
    DEBERTA_V3,
    MCL,
    ELECTRA_15,
    REPLACE_MLM,
    ALL_TOKENS_MLM,
    TWO_STAGE,
    ADVERSARIAL,
    ELECTRIC,
    DISTILLATION,
    RTD_DISTILLATION,
    FAST_ELECTRA,
    PROP,
)
OBJECTIVES = {row.name: row for row in ROWS}
# Keys of config.objective that not all objectives read → the objectives that read them.
OWN_KEYS = {key: [row.name for row in ROWS if key in row.settings] for row in ROWS for key in row.settings}
# All metrics of sums, each once. Of the sums of one objective those are computed whose sums it has.
SUM_METRICS: tuple[SumMetrics, ...] = tuple(dict.fromkeys(one for row in ROWS for one in row.metrics))
# Top-level modules that exports leave out.
NOT_PUBLISHED = tuple(module for row in ROWS for module in row.not_published)


def make_objective(
    config: Mapping[str, Any],
    model: PretrainingConfig,
    special: SpecialTokens,
    pieces: PieceTables = NO_TABLES,
) -> Objective:
    """The training method that config.objective chooses.

    Args:
      config: a whole configuration.
      pieces: for what masks words or identifiers (denoisers.py); not needed if it is not to be trained or
        evaluated.

    Raises:
      ValueError: there is no such objective, or it rejects its settings.
    """
    _check_foreign_keys(config["objective"])
    settings = own_settings(config["objective"])
    row = objective_row(settings)
    if settings["z_loss_weight"] and not (Z_LOSS_METRIC in row.metrics and has_generator(settings)):
        raise ValueError(
            f"config.objective.z_loss_weight: got {settings['z_loss_weight']}, expected 0: objective "
            f"{row.name!r} with generator {settings['generator']!r} trains no masked language model. Remove "
            "the setting."
        )
    make = row.make if settings["generator"] == "model" else row.make_with_fixed_generator
    return make(model, settings | {"pieces": pieces}, special)


def forward_flops(config: Mapping[str, Any], model: PretrainingConfig) -> float:
    """Forward FLOPs per token of text of the objective that config.objective chooses; matrix products alone
    (models/flops.py).

    Raises:
      ValueError: there is no such objective.
    """
    settings = own_settings(config["objective"])
    row = objective_row(settings)
    flops = row.flops if settings["generator"] == "model" else fixed_generator_flops
    settings["mask_prob"] = computed_mask_prob(settings)  # what costs, also where it varies by row
    return flops(model, config["data"]["sequence_length"], settings)


def objective_row(objective: Mapping[str, Any]) -> ObjectiveRow:
    """The row of a section config.objective.

    Raises:
      ValueError: there is no objective of that name, or it does not take that config.objective.generator.
    """
    name, generator = objective["name"], objective["generator"]
    row = find_row(name)
    known = ["model", *(sorted(FIXED_GENERATORS) if row.make_with_fixed_generator else [])]
    if generator not in known:
        raise ValueError(
            f"config.objective.generator: got {generator!r}, expected {' or '.join(known)} with "
            f"config.objective.name={name!r}."
        )
    return row


def find_row(name: str) -> ObjectiveRow:
    """The row of that name.

    Raises:
      ValueError: no objective has that name.
    """
    if name not in OBJECTIVES:
        raise ValueError(f"config.objective.name: got {name!r}, expected one of {sorted(OBJECTIVES)}.")
    return OBJECTIVES[name]


def has_generator(objective: Mapping[str, Any]) -> bool:
    """Whether a generator is trained, and not a fixed distribution or a finished model in its place."""
    return objective["generator"] == "model" and find_row(objective["name"]).trains_generator


def own_settings(objective: Mapping[str, Any]) -> dict[str, Any]:
    """A section config.objective without the keys that only other objectives read, and with those that its
    objective reads, at their defaults where they are missing.

    Raises:
      ValueError: there is no objective of that name.
    """
    own = find_row(objective["name"]).settings
    shared = {key: value for key, value in objective.items() if key not in OWN_KEYS or key in own}
    return {**own, **shared}


def settings_not_read(objective: Mapping[str, Any]) -> tuple[str, ...]:
    """Keys of a section config.objective that recipes may have and that its objective does not read; () if
    there is no objective of that name."""
    row = OBJECTIVES.get(objective["name"])
    if row is None:
        return ()
    return NOT_READ if objective["generator"] in FIXED_GENERATORS else row.not_read


def without_teachers(config: Mapping[str, Any]) -> dict[str, Any]:
    """A whole configuration whose objective has the student's modules alone, as exports, fine-tuning and
    other readers of a run need it; the same for an objective without teachers."""
    objective = config["objective"]
    if not find_row(objective["name"]).teachers_of:
        return dict(config)
    return {**config, "objective": {**objective, "teachers": (), "teacher_models": ()}}


def parameter_form(objective: Mapping[str, Any]) -> str:
    """Equal for two sections config.objective whose parameters have the same modules but for what exports
    leave out, if config.model is the same."""
    if not has_generator(objective):
        return "discriminator"
    return find_row(objective["name"]).parameters_of or objective["name"]


def shared_modules(name: str, modules: Mapping[str, Any]) -> dict[str, Any]:
    """Those of top-level modules with which a run can start from a run with the objective `name` and the same
    `parameter_form`: all but teachers, and but what only another objective adds."""
    theirs = find_row(name).not_published
    return {
        module: tree
        for module, tree in modules.items()
        if module not in BESIDE_THE_STUDENT and (module not in NOT_PUBLISHED or module in theirs)
    }


def first_stage_from(name: str, modules: Mapping[str, Any]) -> FirstStage | None:
    """How parameters with these top-level modules start from a run with the objective `name`, if that is the
    first of their two stages; None if it is not."""
    stages = [row.first_stage for row in ROWS if row.first_stage is not None]
    for stage in stages:
        if stage.objective == name and {*stage.modules, *stage.copies} <= set(modules):
            return stage
    return None


def _check_foreign_keys(objective: Mapping[str, Any]) -> None:
    """Raises ValueError if a key that the objective does not read has another value than its default."""
    own = find_row(objective["name"]).settings
    for key, readers in OWN_KEYS.items():
        if key not in objective or key in own:
            continue
        default = OBJECTIVES[readers[0]].settings[key]
        if objective[key] != default:
            raise ValueError(
                f"config.objective.{key}: got {objective[key]!r}, but objective {objective['name']!r} does "
                f"not read it; it is read by {' and '.join(map(repr, readers))}. Leave it at {default!r}, or "
                "choose the objective in the recipe's argument, --config=FILE.py:objective=NAME."
            )
