"""Running an encoder's layers: unrolled or as a loop, with or without rematerialisation.

The tree of parameters is the same in all cases, one module per layer, so checkpoints do not depend on it.

Shapes: B batch, L length, D hidden.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from electra_jax.models.execution import LayerExecution
from electra_jax.models.inputs import EncoderInputs
from electra_jax.models.layers import CHECKPOINT_NAME, CONTEXT_NAME, WEIGHTS_NAME

# What is stored for the backward pass; the rest of a layer is recomputed.
REMAT_POLICIES = {
    # All products, and the weights of attention in place of the scores. A loop would also store what is
    # computed from them element by element: the result of GELU and the inputs and results of LayerNorm.
    # Without a loop the compiler decides.
    "none": jax.checkpoint_policies.save_only_these_names(CHECKPOINT_NAME, WEIGHTS_NAME, CONTEXT_NAME),
    # All products but the scores, whose number grows with the square of the length. They and the softmax are
    # recomputed: one product of the two that attention makes.
    "attention": jax.checkpoint_policies.save_only_these_names(CHECKPOINT_NAME, CONTEXT_NAME),
    # Products with parameters. Attention scores, softmax, GELU, LayerNorm and dropout are recomputed.
    "dense": jax.checkpoint_policies.save_only_these_names(CHECKPOINT_NAME),
    # Only the input of each layer: about a third more work.
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
    """Hidden states [B, L, D] after `layers`. Dropout is the same for every `execution`.

    Args:
      encoder: the module whose submodules the layers are.
      layers: they may differ only in names and initial values.
      execution: unrolled or scanned, and what the backward pass recomputes.
      x_BLD: input of the first layer.
      inputs: segments and padding.
      is_training: whether dropout is on.
      *more: further arguments, the same for each layer.
    """
    if encoder.is_initializing() or (execution.is_direct and not is_training):
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
    if is_scanned or execution.remat != "none":
        # Without prevent_cse the compiler would merge the recomputation with the original and store its
        # result; across iterations of a loop it cannot.
        run = jax.checkpoint(run, policy=REMAT_POLICIES[execution.remat], prevent_cse=not is_scanned)
    if is_scanned:
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *params)
        return jax.lax.scan(
            lambda x_BLD, layer: (run(x_BLD, *layer, inputs, *more), None), x_BLD, (stacked, keys)
        )[0]
    for index, layer_params in enumerate(params):
        x_BLD = run(x_BLD, layer_params, keys[index] if is_training else None, inputs, *more)
    return x_BLD
