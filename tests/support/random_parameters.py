"""Random parameters for a module, drawn without compiling its initialisation."""

import jax
import jax.numpy as jnp
import numpy as np

from electra_jax.training.state import unbox


def random_parameters(init, spread=0.1):
    """Parameters with the structure of `init()`: normal numbers around 1 for scales, around 0 for all others.

    None has the value that it starts with, so that a lost one shows. `init` is only traced: called as it is,
    it would compile each of its operations separately.
    """
    source = np.random.default_rng(0)

    def draw(path, leaf):
        values = (path[-1].key == "scale") + spread * source.normal(size=leaf.shape)
        return jnp.asarray(values.astype(leaf.dtype))

    return jax.tree_util.tree_map_with_path(draw, unbox(jax.eval_shape(init)))
