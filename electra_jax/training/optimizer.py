"""Adam with decoupled weight decay as ELECTRA published it, and groups of parameters by ordered regular
expressions.

A rule is (pattern, learning-rate multiplier, weight-decay multiplier). The first pattern found in a
parameter's path decides. A parameter that no rule matches is an error.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from electra_jax.objectives.base import Phase
from electra_jax.training.schedules import SCHEDULES


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
    optimizer: dict, num_steps: int, params: Any, phases: Sequence[Phase], frozen: Sequence[str] = ()
) -> tuple[dict[str, optax.GradientTransformation], Callable]:
    """One optimizer a phase, by the phase's name, and the schedule that they share.

    Args:
      optimizer: config.optimizer as a dict.
      params: may be abstract.
      frozen: top-level modules of `params` that no phase trains.

    Raises:
      ValueError: the phases do not train every top-level module that is not frozen exactly once; see also
        `assign_groups`.
    """
    trained = sorted(module for phase in phases for module in phase.trains)
    expected = sorted(params.keys() - set(frozen))
    if trained != expected:
        raise ValueError(f"objective: its phases train {trained}, expected each of {expected} exactly once.")
    schedule = make_schedule(optimizer, num_steps)
    groups = effective_groups(params, optimizer)
    optimizers = {
        phase.name: make_optimizer(optimizer, num_steps, {name: groups[name] for name in phase.trains})
        for phase in phases
    }
    return optimizers, schedule


def make_schedule(optimizer: dict, num_steps: int) -> Callable:
    """Step → learning rate, for config.optimizer as a dict.

    Raises:
      ValueError: an unknown schedule.
    """
    if optimizer["schedule"] not in SCHEDULES:
        raise ValueError(
            f"config.optimizer.schedule: got {optimizer['schedule']!r}, expected one of {sorted(SCHEDULES)}."
        )
    schedule = SCHEDULES[optimizer["schedule"]]
    return schedule(optimizer["learning_rate"], optimizer["warmup_steps"], num_steps)


def make_optimizer(optimizer: dict, num_steps: int, groups: Any) -> optax.GradientTransformation:
    """The optimizer of the parameters that the tree `groups` has a `Group` for.

    Order as electra model/optimization.py and microsoft/DeBERTa optims/xadam.py: clip by the global norm of
    the gradients, Adam, decoupled weight decay, rate.
    """
    rates = jax.tree.map(lambda group: group.learning_rate, groups, is_leaf=is_group)
    decays = jax.tree.map(
        lambda group: optimizer["weight_decay"] * group.weight_decay, groups, is_leaf=is_group
    )
    adam = optax.scale_by_adam if optimizer["bias_correction"] else scale_by_uncorrected_adam
    return optax.chain(
        optax.clip_by_global_norm(optimizer["clip_norm"]),
        adam(b1=optimizer["beta1"], b2=optimizer["beta2"], eps=optimizer["epsilon"]),
        decay_weights(decays),
        scale_by_tree(rates),
        optax.scale_by_learning_rate(make_schedule(optimizer, num_steps)),
    )


def scale_by_uncorrected_adam(b1: float, b2: float, eps: float) -> optax.GradientTransformation:
    """Adam's direction m/(√v + ε) without bias correction, as in BERT's and ELECTRA's
    AdamWeightDecayOptimizer."""

    def init(params):
        zeros = lambda: jax.tree.map(jnp.zeros_like, params)
        return optax.ScaleByAdamState(count=jnp.zeros([], jnp.int32), mu=zeros(), nu=zeros())

    def update(updates, state, params=None):
        del params
        mu = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, state.mu, updates)
        nu = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g * g, state.nu, updates)
        updates = jax.tree.map(lambda m, v: m / (jnp.sqrt(v) + eps), mu, nu)
        return updates, optax.ScaleByAdamState(count=optax.safe_increment(state.count), mu=mu, nu=nu)

    return optax.GradientTransformation(init, update)


def decay_weights(decays: Any) -> optax.GradientTransformation:
    """Add decay · parameter to every update; `decays` is a tree of floats."""
    return optax.stateless(
        lambda updates, params: jax.tree.map(lambda u, d, p: u + d * p, updates, decays, params)
    )


def scale_by_tree(factors: Any) -> optax.GradientTransformation:
    """Multiply every update by its own factor; `factors` is a tree of floats."""
    return optax.stateless(lambda updates, _: jax.tree.map(lambda u, f: u * f, updates, factors))
