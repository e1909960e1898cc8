"""What a program holds, read from its jaxpr."""

import jax
import numpy as np


def sizes_of(jaxpr):
    """Metrics of elements of every array in a program, its inner programs included."""
    out = set()
    for equation in jaxpr.eqns:
        out |= {int(np.prod(variable.aval.shape)) for variable in equation.outvars}
        for inner in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda leaf: hasattr(leaf, "eqns")
        ):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                out |= sizes_of(inner)
    return out
