"""The optimizer of a run: clipping, the update rule that config.optimizer.name chooses, and groups of
parameters by ordered regular expressions.

A rule is (pattern, learning-rate multiplier, weight-decay multiplier). The first pattern found in a
parameter's path decides. A parameter that no rule matches is an error. A group with a learning-rate
multiplier of 0 is frozen: it has no weight decay either.
"""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import optax

from electra_jax.objectives.base import Phase
from electra_jax.training.schedules import Schedule, make_schedule
from electra_jax.training.update_rules import Factors, make_update_rule


class Group(NamedTuple):
    """One rule of config.optimizer.groups."""

    pattern: str
    learning_rate: float  # multiplies the schedule
    weight_decay: float  # multiplies config.optimizer.weight_decay


def assign_groups(params: Any, groups: Sequence[Sequence]) -> Any:
    """Tree of `Group`, shaped like `params`.

    Raises:
      ValueError: a parameter that no pattern matches, a pattern that no parameter uses, or a rule of the
        wrong form.
    """
    rules = [Group(*rule) for rule in groups]
    # A decay that follows the schedule is not multiplied by the rate: it would shrink a frozen group to zero.
    rules = [rule if rule.learning_rate else rule._replace(weight_decay=0.0) for rule in rules]
    used = set()

    def assign(path, _):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        for rule in rules:
            if re.search(rule.pattern, name):
                used.add(rule)
                return rule
        raise ValueError(
            f"config.optimizer.groups: no pattern matches parameter {name!r}; got patterns "
            f"{[rule.pattern for rule in rules]}. Add a rule, for example ('.*', 1.0, 1.0) as the last one."
        )

    tree = jax.tree_util.tree_map_with_path(assign, params)
    unused = [rule.pattern for rule in rules if rule not in used]
    if unused:
        raise ValueError(
            f"config.optimizer.groups: patterns {unused} decide for no parameter. Remove or correct them."
        )
    return tree


def effective_groups(params: Any, optimizer: dict) -> Any:
    """`assign_groups` for config.optimizer, with discriminator_learning_rate worked into the multipliers.

    A `discriminator_learning_rate` of 0 means the same rate, as in the released DeBERTa code.
    """
    ratio = optimizer["discriminator_learning_rate"] / optimizer["learning_rate"] or 1.0

    def scale(path, group):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        is_discriminator = name.startswith("discriminator")
        return group._replace(learning_rate=group.learning_rate * ratio) if is_discriminator else group

    groups = assign_groups(params, optimizer["groups"])
    return jax.tree_util.tree_map_with_path(scale, groups, is_leaf=is_group)


def is_group(leaf: Any) -> bool:
    """The `is_leaf` of jax.tree functions for trees of `Group`."""
    return isinstance(leaf, Group)


def make_optimizers(
    optimizer: dict,
    num_steps: int,
    params: Any,
    phases: Sequence[Phase],
    frozen: Sequence[str] = (),
    *,
    first_step: int = 0,
    dtype: str = "float32",
) -> tuple[dict[str, optax.GradientTransformation], Schedule]:
    """One optimizer a phase, by the phase's name, and the schedule that they share.

    Args:
      optimizer: config.optimizer as a dict.
      num_steps: that the schedule spans, from `first_step` on.
      params: may be abstract.
      frozen: top-level modules of `params` that no phase trains.
      dtype: of the model.

    Raises:
      ValueError: the phases do not train every top-level module that is not frozen exactly once; see also
        `assign_groups`.
    """
    trained = sorted(module for phase in phases for module in phase.trains)
    expected = sorted(params.keys() - set(frozen))
    if trained != expected:
        raise ValueError(f"objective: its phases train {trained}, expected each of {expected} exactly once.")
    schedule = make_schedule(optimizer, num_steps, first_step)
    groups = effective_groups(params, optimizer)
    optimizers = {
        phase.name: make_optimizer(optimizer, schedule, {name: groups[name] for name in phase.trains}, dtype)
        for phase in phases
    }
    return optimizers, schedule


def make_optimizer(
    optimizer: dict, schedule: Schedule, groups: Any, dtype: str = "float32"
) -> optax.GradientTransformation:
    """The optimizer of the parameters that the tree `groups` has a `Group` for.

    Order as electra model/optimization.py and microsoft/DeBERTa optims/xadam.py: clip by the global norm of
    the gradients, then the rule that config.optimizer.name chooses (update_rules.py).
    """
    of_groups = lambda value: jax.tree.map(value, groups, is_leaf=is_group)
    factors = Factors(
        rates=of_groups(lambda group: group.learning_rate),
        decays=of_groups(lambda group: optimizer["weight_decay"] * group.weight_decay),
        has_decay=of_groups(lambda group: group.weight_decay != 0),
    )
    return optax.chain(
        optax.clip_by_global_norm(optimizer["clip_norm"]),
        *make_update_rule(optimizer, factors, schedule, dtype),
    )
