"""The parameters of a run as a table: shape, dtype, sharding, and how each is trained."""

import math
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import PartitionSpec

from electra_jax.training.optimizer import effective_groups
from electra_jax.training.update_rules import ADAMW, MUON, hidden_matrices

HEADER = ("parameter", "shape", "dtype", "logical axes", "partition spec", "rate", "decay")


def parameter_table(
    params: Any, logical_axes: Any, optimizer: dict[str, Any], frozen: Sequence[str] = ()
) -> list[str]:
    """Lines of text: one for each parameter, then the totals. With two update rules a column tells which one
    trains the parameter.

    Args:
      params: abstract parameters with NamedShardings.
      logical_axes: tree of PartitionSpecs of logical names, shaped like `params`.
      optimizer: config.optimizer; "rate" multiplies its schedule, "decay" is the weight decay applied.
      frozen: top-level modules that are not trained and have neither.

    Raises:
      ValueError: a parameter that no group of config.optimizer.groups matches.
    """
    groups, has_rules = effective_groups(params, optimizer), optimizer["name"] == MUON
    header = (*HEADER, "rule") if has_rules else HEADER
    rows: list[Sequence[str]] = [header]

    def add(path, leaf, axes, group, is_matrix):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        is_frozen = name.partition("/")[0] in frozen
        rows.append(
            (
                name,
                _tuple(leaf.shape),
                leaf.dtype.name,
                _axes(axes, leaf.ndim),
                _axes(leaf.sharding.spec, leaf.ndim),
                "-" if is_frozen else f"{group.learning_rate:g}",
                "-" if is_frozen else f"{optimizer['weight_decay'] * group.weight_decay:g}",
                *((("-" if is_frozen else MUON if is_matrix else ADAMW),) if has_rules else ()),
            )
        )

    jax.tree_util.tree_map_with_path(add, params, logical_axes, groups, hidden_matrices(params))
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    lines = [
        "  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    return [*lines, totals(params, frozen)]


def totals(params: Any, frozen: Sequence[str] = ()) -> str:
    """One line: the number of parameters in total, by top-level module, and in those that are `frozen`."""
    count = lambda tree: sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))
    parts = ", ".join(f"{name} {count(tree):,}" for name, tree in params.items())
    kept = f"; {count([params[name] for name in frozen]):,} of them are not trained" if frozen else ""
    return f"{count(params):,} parameters in {len(jax.tree.leaves(params))} arrays: {parts}{kept}"


def _axes(spec: PartitionSpec, rank: int) -> str:
    """Names of all `rank` axes; "-" for an axis without a name."""
    return _tuple("-" if name is None else name for name in (*spec, *[None] * (rank - len(spec))))


def _tuple(values) -> str:
    return f"({', '.join(map(str, values))})"
