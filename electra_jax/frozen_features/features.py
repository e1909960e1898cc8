"""Features of texts: the pooled states of an encoder that is not trained.

Everything is computed in float32, whatever a run was trained in, so that a run and its export have the same.

Shapes: B batch, L length, D hidden, N texts, S states: that of the last layer, or of the input of the first
layer and the outputs of all layers.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from data_pipelines.tasks.encoding import EncodedExample
from electra_jax.distributed.sharding import axis_context, batch_sharding, replicated
from electra_jax.finetuning.encoders import PretrainedEncoder
from electra_jax.finetuning.models import TaskModel
from electra_jax.finetuning.pooling import POOLINGS, pooled_state
from electra_jax.huggingface.published_models import Params
from electra_jax.huggingface.reference import in_float32, with_states
from electra_jax.minimal_pairs.scoring import Tell, row_batches
from electra_jax.training.state import unbox

SEED = 0  # of newly initialised weights


class FeatureReader:
    """An encoder on the devices."""

    def __init__(self, encoder: PretrainedEncoder, mesh: Mesh):
        config = in_float32(encoder.config)
        # An embedding model has no head: its parameters are those of the encoder.
        self._module = TaskModel(config, encoder.special, "embedding", 0, "published", 0.0)
        self._mesh, self._pad = mesh, encoder.special.pad
        self._longest = config.max_position_embeddings
        init = lambda key: unbox(self._module.init(key, jnp.ones((1, 2), jnp.int32), False)["params"])
        params = jax.jit(init)(jax.random.key(SEED)) if encoder.params is None else encoder.params
        self._params = jax.device_put(params, replicated(mesh))

    def read(
        self, rows: Sequence[EncodedExample], tell: Tell, *, every_layer: bool = False
    ) -> dict[str, np.ndarray]:
        """Pooling → features [S, N, D], float32, in the order of the rows.

        Args:
          tell: called with the share that is done.

        Raises:
          FloatingPointError: the encoder computes something that is not a finite number.
        """
        features: dict[str, np.ndarray] = {}
        batches = row_batches([row.ids for row in rows], self._longest, self._pad, self._mesh.size, tell)
        for chosen, ids_BL in batches:
            with axis_context(self._mesh):
                ids_BL = jax.device_put(ids_BL, batch_sharding(self._mesh))
                found = jax.device_get(pooled_states(self._module, self._params, ids_BL, every_layer))
            for pooling, of_batch_SBD in found.items():
                if pooling not in features:
                    num_states, _, width = of_batch_SBD.shape
                    features[pooling] = np.zeros((num_states, len(rows), width), np.float32)
                features[pooling][:, chosen] = of_batch_SBD[:, : len(chosen)]
        if not all(np.isfinite(array).all() for array in features.values()):
            raise FloatingPointError(
                "got states that are not finite numbers, expected finite ones. The training diverged: take "
                "another checkpoint."
            )
        return features


@functools.partial(jax.jit, static_argnums=(0, 3))
def pooled_states(
    module: TaskModel, params: Params, ids_BL: jax.Array, every_layer: bool
) -> dict[str, jax.Array]:
    """Pooling → pooled states [S, B, D]. Encoders of the same shapes share what is compiled."""
    states, last_BLD = with_states(module, params, ids_BL, False, method=TaskModel.states)
    # After ModernBERT's last layer comes a LayerNorm, which `with_states` leaves to its caller.
    below = list(states[: module.config.num_layers]) if every_layer else []
    pool = lambda x_BLD, pooling: pooled_state(x_BLD, ids_BL, pooling, module.special.pad)[:, 0]
    return {name: jnp.stack([pool(x_BLD, name) for x_BLD in (*below, last_BLD)]) for name in POOLINGS}
