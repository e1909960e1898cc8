"""How an encoder's layers are computed: one after the other or as one loop, and what their derivative keeps
in memory.

The parameters are the same in every form: a layer each, by name. A checkpoint knows nothing of it.

Shapes: B batch, L length, D hidden.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from electra_jax.models.config import UNROLLED, LayerExecution
from electra_jax.models.inputs import EncoderInputs
from electra_jax.models.layers import CHECKPOINT_NAME

# What the derivative finds in memory; all else of a layer it computes again.
REMAT_POLICIES = {
    # No product with parameters is computed twice, only attention scores, softmax, GELU, LayerNorm and
    # dropout.
    "dense": jax.checkpoint_policies.save_only_these_names(CHECKPOINT_NAME),
    # The input of each layer: about a third more work.
    "full": jax.checkpoint_policies.nothing_saveable,
}


def run_layers(
    encoder: nn.Module,
    layers: list[nn.Module],
    execution: LayerExecution,
    x_BLD: jax.Array,
    inputs: EncoderInputs,
    is_training: bool,
    *more: jax.Array,
) -> jax.Array:
    """Hidden states after `layers`, submodules of `encoder` that differ in their names and initial values
    alone. `more` are arguments of theirs after those that all layers have. Dropout is the same in every form
    of execution."""
    if encoder.is_initializing() or (execution == UNROLLED and not is_training):
        for layer in layers:
            x_BLD = layer(x_BLD, inputs, is_training, *more)
        return x_BLD
    params = [encoder.variables["params"][layer.name] for layer in layers]
    keys = jax.random.split(encoder.make_rng("dropout"), len(layers)) if is_training else None
    template = layers[0].clone(parent=None, name=None)

    def run(x_BLD, params, key, inputs, *more):
        rngs = {"dropout": key} if is_training else {}
        return template.apply({"params": params}, x_BLD, inputs, is_training, *more, rngs=rngs)

    is_scanned = execution.layers == "scanned" and len(layers) > 1
    if execution.remat != "none":
        # The compiler would find that both computations are the same, and keep the first; from one turn of a
        # loop to another it does not look.
        run = jax.checkpoint(run, policy=REMAT_POLICIES[execution.remat], prevent_cse=not is_scanned)
    if is_scanned:
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *params)
        return jax.lax.scan(
            lambda x_BLD, layer: (run(x_BLD, *layer, inputs, *more), None), x_BLD, (stacked, keys)
        )[0]
    for index, layer_params in enumerate(params):
        x_BLD = run(x_BLD, layer_params, keys[index] if is_training else None, inputs, *more)
    return x_BLD
