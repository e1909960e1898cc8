"""Running an encoder's layers: unrolled or as a loop, with or without rematerialisation.

The tree of parameters is the same in all cases, one module per layer, so checkpoints do not depend on it.

Shapes: B batch, L length, D hidden.
"""

from collections.abc import Callable
from typing import Any

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
    *more: Any,
    period: int = 1,
) -> jax.Array:
    """Hidden states [B, L, D] after `layers`. Dropout is the same for every `execution`.

    Args:
      encoder: the module whose submodules the layers are.
      layers: those that are `period` apart may differ only in names and initial values.
      execution: unrolled or scanned, and what the backward pass recomputes.
      x_BLD: input of the first layer.
      inputs: segments and padding.
      is_training: whether dropout is on.
      *more: further arguments, the same for each layer.
      period: length of the repeating pattern of layers; layers `period` apart are of the same kind. The
        loop runs one period per iteration; layers left over at the end are unrolled.
    """
    if encoder.is_initializing() or (execution.is_direct and not is_training):
        for layer in layers:
            x_BLD = layer(x_BLD, inputs, is_training, *more)
        return x_BLD
    params = [encoder.variables["params"][layer.name] for layer in layers]
    keys = jax.random.split(encoder.make_rng("dropout"), len(layers)) if is_training else None
    templates = [layer.clone(parent=None, name=None) for layer in layers[:period]]
    num_periods = len(layers) // period
    num_scanned = num_periods * period if execution.layers == "scanned" and num_periods > 1 else 0
    if num_scanned:
        run = [_make_run(each, execution, inputs, is_training, more, in_loop=True) for each in templates]
        # For each place in the period, the parameters of its layers, stacked.
        stacked = [
            jax.tree.map(lambda *leaves: jnp.stack(leaves), *params[place:num_scanned:period])
            for place in range(period)
        ]
        keys_of = lambda place: keys[place:num_scanned:period] if is_training else None

        def run_period(x_BLD, layers):
            for run_layer, layer in zip(run, layers, strict=True):
                x_BLD = run_layer(x_BLD, *layer)
            return x_BLD, None

        xs = [(each, keys_of(place)) for place, each in enumerate(stacked)]
        x_BLD, _ = jax.lax.scan(run_period, x_BLD, xs)
    run = [_make_run(each, execution, inputs, is_training, more, in_loop=False) for each in templates]
    for index in range(num_scanned, len(layers)):
        x_BLD = run[index % period](x_BLD, params[index], keys[index] if is_training else None)
    return x_BLD


def _make_run(
    template: nn.Module,
    execution: LayerExecution,
    inputs: EncoderInputs,
    is_training: bool,
    more: tuple[Any, ...],
    *,
    in_loop: bool,
) -> Callable[..., jax.Array]:
    """The function (states, parameters, key) → states of a kind of layer, with rematerialisation."""

    def run(x_BLD, params, key, inputs, *more):
        rngs = {"dropout": key} if is_training else {}
        return template.apply({"params": params}, x_BLD, inputs, is_training, *more, rngs=rngs)

    if in_loop or execution.remat != "none":
        # Without prevent_cse the compiler would merge the recomputation with the original and store its
        # result; across iterations of a loop it cannot.
        run = jax.checkpoint(run, policy=REMAT_POLICIES[execution.remat], prevent_cse=not in_loop)
    return lambda x_BLD, params, key: run(x_BLD, params, key, inputs, *more)
