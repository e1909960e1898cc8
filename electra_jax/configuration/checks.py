"""Checks of the values of a configuration, against the table and against each other."""

import re
from collections.abc import Collection, Sequence, Set
from typing import Any

from flax.traverse_util import flatten_dict, unflatten_dict

from data_pipelines.problems import Problems
from electra_jax.configuration.migration import OF_EMBEDDINGS
from electra_jax.configuration.ranges import Allowed
from electra_jax.configuration.stages import SCHEDULE, place_of, schedule_span
from electra_jax.configuration.value_table import OF_PRETRAINING, find_rule
from electra_jax.models.config import SECTIONS, PretrainingConfig
from electra_jax.objectives.corruption import max_predictions_per_seq
from electra_jax.objectives.denoisers import denoisers_of, num_denoiser_slots
from electra_jax.objectives.registry import find_row, has_generator
from electra_jax.training.schedules import DECAYS, check_schedule, decay_length
from electra_jax.training.update_rules import LAMB

# The keys that decide the length of a run, and what must fit it.
OF_LENGTH = (
    "train.num_steps",
    *OF_PRETRAINING,
    *(f"optimizer.{key}" for key in ("schedule", "warmup_steps", "decay_steps", "decay_share")),
)
# Kinds of tasks whose heads read the state of every token.
OF_TOKENS = ("tagging", "question_answering")
# While one of these is wrong, the others of the model cannot be said to fit it.
OF_SHAPE = ("hidden_size", "position", *SECTIONS)
# What one layer of embeddings can have only once. Each encoder has its own hidden_dropout behind it.
OF_SHARED_EMBEDDINGS = (
    "max_position_embeddings",
    "type_vocab_size",
    "layer_norm_epsilon",
    "initializer",
    "initializer_range",
)


def of_task(name: str, error: Exception) -> str:
    """The text of an error of one of several tasks, whose keys are config.tasks.NAME.… in a recipe."""
    return f"task {name}: " + re.sub(
        r"config\.(?!tasks\.)(?=[a-z]+\.[a-z])", f"config.tasks.{name}.", str(error)
    )


def check_values(config: dict[str, Any]) -> None:
    """Check every value that has a row in the table, and that the head of a task can pool as it should.

    Args:
      config: a whole configuration, of pre-training or of fine-tuning.

    Raises:
      ValueError: some values are not allowed; names the key of each, what is allowed, and a value to pass.
    """
    problems, values = Problems(), _flat_values(config)
    wrong = wrong_values(config)
    for key in wrong:
        allowed, example = _rule(key, config)
        word = f'"{example}"' if isinstance(example, tuple) else example
        problems.add_text(
            f"config.{key}: got {values[key]!r}, expected {allowed.expected}. "
            f"Pass, for example, --config.{key}={word}."
        )
    kind = values.get("task.kind")
    if kind in OF_TOKENS and values.get("model.pooling") == "mean":
        problems.add_text(
            f"config.model.pooling: got 'mean' with config.task.kind={kind!r}, expected 'cls': such a head "
            "reads the state of every token. Pass --config.model.pooling=cls."
        )
    if kind not in (None, "embedding"):
        for key, default in OF_EMBEDDINGS.items():
            value = values.get(key, default)
            is_default = value == default or not (value or default)  # () and [] are the same
            if not is_default and key not in wrong:
                problems.add_text(
                    f"config.{key}: got {value!r} with config.task.kind={kind!r}, expected {default!r}: "
                    "only embeddings have it. Leave it out."
                )
    if kind == "embedding" and values.get("sift.vat_lambda"):
        problems.add_text(
            f"config.sift.vat_lambda: got {values['sift.vat_lambda']} with config.task.kind='embedding', "
            "expected 0: vectors have no classes whose shares could be compared. "
            "Pass --config.sift.vat_lambda=0."
        )
    problems.report()


def wrong_values(config: dict[str, Any]) -> dict[str, Any]:
    """Key → value of each that is not allowed."""
    return {
        key: value
        for key, value in _flat_values(config).items()
        if (rule := _rule(key, config)) is not None and not rule[0].accepts(value)
    }


def _flat_values(config: dict[str, Any]) -> dict[str, Any]:
    """Key → value. A section in the place of a value, also an empty one, stays whole."""
    has_rule = lambda path, _: _rule(".".join(map(str, path)), config) is not None
    return flatten_dict(config, is_leaf=has_rule, sep=".")


def with_allowed_values(config: dict[str, Any], wrong: Collection[str]) -> dict[str, Any]:
    """The configuration with an allowed value for each of the keys `wrong`, so that checks of how values fit
    together do not report the same mistake again."""
    if not wrong:
        return config
    flat = flatten_dict(config, keep_empty_nodes=True, sep=".")
    allowed = {key: _rule(key, config)[1] for key in wrong}
    if "model.embedding_size" in wrong:  # it fits every family
        allowed["model.embedding_size"] = (flat | allowed)["model.discriminator.hidden_size"]
    return unflatten_dict(flat | allowed, sep=".")


def has_a_shape(wrong: Collection[str]) -> bool:
    """Whether the model's shape can be checked although the keys `wrong` are."""
    return not any(name in key.split(".") for key in wrong if key.startswith("model.") for name in OF_SHAPE)


def _rule(key: str, config: dict[str, Any]) -> tuple[Allowed, Any] | None:
    return find_rule(key, is_pretraining="objective" in config)


def check_stage_values(stages: Sequence[tuple[int, dict[str, Any]]]) -> None:
    """Raises ValueError for a value in the entries of config.stages that the table does not allow."""
    problems = Problems()
    for first_step, changes in stages:
        for key, value in changes.items():
            rule = find_rule(key, is_pretraining=True)
            if rule is not None and not rule[0].accepts(value):
                problems.add_text(
                    f"{place_of(first_step)}: got {key}={value!r}, expected {rule[0].expected}."
                )
    problems.report()


def check_shared_embeddings(model: PretrainingConfig, wrong: Collection[str]) -> None:
    """Raises ValueError where the generator has other settings of embeddings than the discriminator, whose
    embeddings it shares. They would not be used. Settings whose keys are `wrong` are left out.

    Only training is refused: runs from before this check can be read and exported.
    """
    problems, names = Problems(), {key.split(".")[-1] for key in wrong}
    for field in OF_SHARED_EMBEDDINGS if model.shares_embeddings else ():
        own, used = getattr(model.generator, field), getattr(model.discriminator, field)
        if own != used and field not in names:
            problems.add_text(
                f"config.model.generator.{field}: got {own!r} with config.model.embedding_sharing='tied', "
                f"expected {used!r}, as the discriminator has: both share their embeddings. Set "
                f"config.model.{field} for both in the recipe, or pass --config.model.embedding_sharing=none."
            )
    problems.report()


def check_predictions(config: dict[str, Any]) -> None:
    """Raises ValueError when no position of a row would be predicted, or more than it has."""
    objective, length = config["objective"], config["data"]["sequence_length"]
    problems = Problems()
    for key in ("mask_prob", "swap_prob", "insert_prob"):
        if key not in objective or not length:  # sizes that nobody knows are a problem of their own
            continue
        if key == "mask_prob" and objective["denoisers"]:
            continue
        share, is_uniform = objective[key], key != "mask_prob" or objective["masking"] == "uniform"
        # Windows of 1/mask_prob tokens: the longest is the row.
        number = max_predictions_per_seq(share, length) if is_uniform else int(share * length)
        if not 1 <= number <= length:
            problems.add_text(
                f"config.objective.{key}: got {share} for rows of {length}, of which {number} positions "
                f"would be chosen, expected 1 to {length}. Pass another share, such as 0.15, or longer rows."
            )
    for denoiser in denoisers_of(objective) if length else ():
        if not num_denoiser_slots(denoiser, length):
            problems.add_text(
                f"config.objective.denoisers: got {tuple(denoiser)} for rows of {length}, of which 0 "
                "positions would be chosen, expected 1 or more. Raise its second value, mask_prob, or use "
                "longer rows."
            )
    problems.report()


def check_rates(config: dict[str, Any], first_step: int = 0) -> None:
    """Check that the learning-rate schedule which holds at `first_step` fits into its steps.

    Args:
      config: of the stage with that step.

    Raises:
      ValueError: the rate would never reach its peak, or warm-up and decay overlap.
    """
    start, end = schedule_span(config, first_step)
    optimizer, num_steps = config["optimizer"], end - start
    warmup_steps = num_steps // 10
    total, remedy = f"the {num_steps} steps of its schedule", f"Lower it to {warmup_steps}."
    if start == 0:
        remedy = f"Pass --config.optimizer.warmup_steps={warmup_steps}, or begin the next schedule later."
    if num_steps == config["train"]["num_steps"]:
        total = f"config.train.num_steps={num_steps}"
        remedy = f"Pass --config.optimizer.warmup_steps={warmup_steps}, or more --config.train.num_steps."
    check_schedule(
        optimizer["warmup_steps"],
        num_steps,
        decay_length(optimizer, num_steps),
        total=total,
        remedy=remedy,
    )


def check_decays(config: dict[str, Any], wrong: Set[str]) -> None:
    """Raises ValueError for a length or end of a decay that no schedule reads, unless its key is `wrong`. A
    stage may inherit it."""
    problems, optimizer = Problems(), config["optimizer"]
    own = [(first_step, changes) for first_step, changes in config["stages"] if SCHEDULE in changes]
    schedules = {optimizer["schedule"], *(changes[SCHEDULE] for _, changes in own)}
    readers = " and ".join(DECAYS)
    for key in ("decay_steps", "final_share"):
        if optimizer[key] and not schedules & DECAYS.keys() and not wrong & {SCHEDULE, f"optimizer.{key}"}:
            problems.add_text(
                f"config.optimizer.{key}: got {optimizer[key]} with config.optimizer.schedule="
                f"{optimizer['schedule']!r}, expected 0: only {readers} read it. Pass "
                f"--config.optimizer.{key}=0, or one of these schedules."
            )
    for first_step, changes in own:
        for key in ("optimizer.decay_steps", "optimizer.decay_share", "optimizer.final_share"):
            if changes.get(key) and changes[SCHEDULE] not in DECAYS:
                problems.add_text(
                    f"{place_of(first_step)}: got {key}={changes[key]} with {SCHEDULE}="
                    f"{changes[SCHEDULE]!r}, expected no such key: only {readers} read it. Leave it out, or "
                    "name one of these schedules."
                )
    problems.report()


def check_weight_decay(optimizer: dict[str, Any]) -> None:
    """Raises ValueError for an update rule that cannot take its weight decay by the schedule."""
    if optimizer["name"] == LAMB and optimizer["weight_decay_follows"] != "rate":
        raise ValueError(
            f"config.optimizer.weight_decay_follows: got {optimizer['weight_decay_follows']!r} with "
            "config.optimizer.name='lamb', expected 'rate': LAMB scales the update together with its weight "
            "decay. Pass --config.optimizer.weight_decay_follows=rate."
        )


def check_trust_ratios(config: dict[str, Any]) -> None:
    """Raises ValueError for LAMB with a table that begins at zero."""
    objective = config["objective"]
    has_deltas = has_generator(objective) and not find_row(objective["name"]).predicts_tokens
    if config["optimizer"]["name"] == LAMB and config["model"]["embedding_sharing"] == "gdes" and has_deltas:
        raise ValueError(
            "config.model.embedding_sharing: got 'gdes' with config.optimizer.name='lamb', expected 'tied' "
            "or 'none': the discriminator's own table begins at zero, and LAMB's updates are as small as "
            "what they update, so that it would hardly grow. Pass --config.model.embedding_sharing=tied, or "
            "another --config.optimizer.name."
        )
