"""From the configuration that a command was given to one that is complete, checked and cannot change.

Every command that trains, or asks what training would need, calls `resolve` once. What comes after it reads
plain values: tuples are tuples, each stage is a whole configuration, and nothing checks them again.
"""

import dataclasses
import math
from typing import Any, NoReturn

from data_pipelines.problems import Problems
from electra_jax.configuration.checks import (
    OF_LENGTH,
    check_decays,
    check_predictions,
    check_rates,
    check_shared_embeddings,
    check_stage_values,
    check_trust_ratios,
    check_values,
    check_weight_decay,
    has_a_shape,
    with_allowed_values,
    wrong_values,
)
from electra_jax.configuration.length import with_num_steps, without_end
from electra_jax.configuration.ranges import SMALLEST_NUMBER
from electra_jax.configuration.sizes import with_assumed_sizes
from electra_jax.configuration.stages import Stage, make_stages, schedule_span, stage_errors
from electra_jax.models.config import PretrainingConfig, make_pretraining_config
from electra_jax.models.execution import LayerExecution
from electra_jax.objectives.registry import objective_row


class FrozenDict(dict):
    """A dictionary that cannot be changed. JSON takes it, and `|` makes a new dictionary of it, as of any
    other."""

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError("This configuration is resolved and cannot change. Change it before `resolve`.")

    __setitem__ = __delitem__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse

    def __deepcopy__(self, memo: dict) -> dict[str, Any]:
        return _thaw(self)

    def __reduce__(self) -> tuple:
        return freeze, (_thaw(self),)


@dataclasses.dataclass(frozen=True)
class ResolvedConfig:
    """A configuration of pre-training after `resolve`. All dictionaries in it are frozen."""

    values: dict[str, Any]  # the whole configuration; config.json of a run keeps it
    model: PretrainingConfig
    stages: tuple[Stage, ...]  # at least one; each with the whole configuration of its steps

    @property
    def datasets(self) -> tuple[str, ...]:
        """The datasets of all stages, as config.data names them."""
        return tuple(path for stage in self.stages for path in stage.config["data"]["datasets"])


def resolve(config: dict[str, Any], *, has_begun: bool = False) -> ResolvedConfig:
    """Complete, check and freeze a configuration of pre-training.

    Args:
      config: as a recipe or a file gives it; lists may stand for tuples. It is not changed. Sizes that are 0
        in it become those that the recipe assumes; the commands that read data have filled them before
        (`runs.data_sizes.resolve_run`).
      has_begun: whether it is that of a run which exists already. Such a run may have values that earlier
        versions took and did not read.

    Raises:
      ValueError: values are not allowed, or do not fit together; names each key and how to change it.
    """
    problems = Problems()
    with problems.kept():
        objective = config["objective"]
        config = config | {"objective": {**objective_row(objective).settings, **objective}}
    wrong = wrong_values(config)
    with problems.kept():
        check_values(config)
    # From here on, wrong values and malformed stages do not count a second time.
    stages, config = config["stages"], with_allowed_values(config, wrong) | {"stages": ()}
    with problems.kept():
        make_stages(without_end(config | {"stages": stages}))
        check_stage_values(stages)
        config = config | {"stages": stages}
    with problems.kept():
        if not has_begun:
            check_decays(config, wrong.keys())
    with problems.kept():
        check_weight_decay(config["optimizer"])
    with problems.kept():
        check_trust_ratios(config)
    with problems.kept():
        config = with_assumed_sizes(config)
        with problems.kept():
            if has_a_shape(wrong):
                execution = LayerExecution.of_training(config["train"])
                model = make_pretraining_config(config["model"], execution)
                check_shared_embeddings(model, wrong)
        with problems.kept():
            if not set(OF_LENGTH) & wrong.keys():
                # If its length is wrong, no stage is beyond its end.
                given, config = config, without_end(config)
                config = with_num_steps(given, None)
                check_rates(config)
    with problems.kept():
        config = config | {"data": config["data"] | dataset_values(config["data"])}
    with problems.kept():
        resolved_stages = tuple(map(_resolve_stage, make_stages(config)))
        for stage in resolved_stages:
            with problems.kept(), stage_errors(stage):
                check_predictions(stage.config)
            with problems.kept(), stage_errors(stage):
                if stage.first_step and schedule_span(stage.config, stage.first_step)[0] == stage.first_step:
                    check_rates(stage.config, stage.first_step)
    problems.report()
    return ResolvedConfig(freeze(config), model, resolved_stages)


def dataset_values(data: dict[str, Any]) -> dict[str, Any]:
    """config.data.datasets and weights as tuples of one length: a single directory may be a plain string.

    Raises:
      ValueError: no directory is given, or not one weight for each.
    """
    datasets = dataset_paths(data)
    if not datasets:
        raise ValueError(
            "config.data.datasets: got none, expected the directory of a dataset. Build one with `python -m "
            "data_pipelines.corpus --train … --validation … --tokenizer … --sequence_length … --packing "
            "documents --out DIR` (--help explains it), then pass --config.data.datasets=DIR."
        )
    given = data["weights"] if isinstance(data["weights"], list | tuple) else (data["weights"],)
    weights = tuple(_number(weight) for weight in given)
    if len(weights) != len(datasets) or None in weights:
        raise ValueError(
            f"config.data.weights: got {tuple(given)} for {len(datasets)} datasets, expected a number above "
            f"0 for each. Pass --config.data.weights={','.join('1' for _ in datasets)} for equal shares."
        )
    return {"datasets": datasets, "weights": weights}


def dataset_paths(data: dict[str, Any]) -> tuple[str, ...]:
    """config.data.datasets as a tuple."""
    datasets = data["datasets"].split(",") if isinstance(data["datasets"], str) else data["datasets"]
    return tuple(str(path) for path in datasets if path != "")


def _number(weight: Any) -> float | None:
    """A weight as a number, which a command line gives as text; None if it is not one, or is not above 0."""
    try:
        number = math.nan if isinstance(weight, bool) else float(weight)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if SMALLEST_NUMBER <= number < math.inf else None


def freeze(value: Any) -> Any:
    """A copy that cannot be changed: lists become tuples, dictionaries `FrozenDict`s."""
    if isinstance(value, dict):
        return FrozenDict({key: freeze(child) for key, child in value.items()})
    return tuple(map(freeze, value)) if isinstance(value, list | tuple) else value


def _thaw(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _thaw(child) for key, child in value.items()}
    return tuple(map(_thaw, value)) if isinstance(value, tuple) else value


def _resolve_stage(stage: Stage) -> Stage:
    with stage_errors(stage):
        data = stage.config["data"] | dataset_values(stage.config["data"])
    return stage._replace(config=freeze(stage.config | {"data": data}))
