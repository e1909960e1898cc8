"""Gradients of a phase over the global batch: computed in microbatches, and in data shards whose sums cross
the network once a step.

Shapes: B batch, S data shards.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from electra_jax.distributed.sharding import BATCH_AXES, data_shard_context, num_data_shards
from electra_jax.models.config import DTYPES
from electra_jax.objectives.base import Phase


class Accumulation(NamedTuple):
    """How the batch is cut for the computation of gradients."""

    num_data_shards: int  # one for each part of the batch on the mesh; 1 leaves sharding to the compiler
    num_microbatches: int  # of each data shard, computed in sequence
    dtype: str  # in which sums of data shards cross the network


def make_accumulation(train: dict[str, Any], mesh: Mesh) -> Accumulation:
    """The accumulation that config.train asks for, on a mesh.

    Data shards are used only where they help. With one microbatch the compiler's sums cross the network once,
    too. With fsdp above 1 the gradients are cut like the parameters, to save memory, while those of a data
    shard are whole.

    Raises:
      ValueError: an unknown dtype.
    """
    num_microbatches, dtype = train["num_microbatches"], train["gradient_dtype"]
    if dtype not in DTYPES:
        raise ValueError(f"config.train.gradient_dtype: got {dtype!r}, expected one of {DTYPES}.")
    uses_data_shards = dtype == "bfloat16" or (num_microbatches > 1 and mesh.shape["fsdp"] == 1)
    return Accumulation(num_data_shards(mesh) if uses_data_shards else 1, num_microbatches, dtype)


def gradients(
    phase: Phase, params, batch, normalizers, dropout_key: jax.Array, carry, accumulation: Accumulation
):
    """(gradients of the parameters that the phase trains, metric sums, carry) of the whole batch.

    Without data shards the compiler sums each gradient over the network in every microbatch, in the precision
    of its computation. With them, each shard adds up its gradients in float32 over all its microbatches; only
    then are they rounded to `dtype` and summed.
    """
    if accumulation.num_data_shards == 1:
        return accumulate_gradients(
            phase, params, batch, normalizers, dropout_key, carry, accumulation.num_microbatches
        )
    split = lambda x: x.reshape(accumulation.num_data_shards, -1, *x.shape[1:])
    batch, carry = jax.tree.map(split, (batch, carry))

    @functools.partial(jax.vmap, spmd_axis_name=BATCH_AXES)
    def of_data_shard(batch, carry):
        with data_shard_context():
            return accumulate_gradients(
                phase, params, batch, normalizers, dropout_key, carry, accumulation.num_microbatches
            )

    grads, sums, carry = of_data_shard(batch, carry)
    # reduce_sum, since jnp.sum would convert bfloat16 to float32 before it crosses the network.
    reduce = lambda grad: jax.lax.reduce_sum(grad.astype(accumulation.dtype), axes=(0,)).astype(jnp.float32)
    join = lambda x: x.reshape(-1, *x.shape[2:])
    return jax.tree.map(reduce, grads), jax.tree.map(lambda x: x.sum(axis=0), sums), jax.tree.map(join, carry)


def accumulate_gradients(
    phase: Phase, params, batch, normalizers, dropout_key: jax.Array, carry, num_microbatches: int
):
    """(gradients of the parameters that the phase trains, metric sums, carry) of the whole batch, computed
    one microbatch at a time.

    Denominators come from the whole batch, and noise from it or from the numbers of its rows
    (`EncoderInputs.rows_B`), so the result equals that of one large batch, however the tokens are distributed
    over microbatches.
    """
    # Folded in once for all microbatches; without it, runs of older versions would change their noise.
    dropout_key = jax.random.fold_in(dropout_key, 0)

    def grad_and_sums(microbatch, carry):
        def loss(trained):
            return phase.loss(params | trained, microbatch, normalizers, dropout_key, carry)

        (value, (sums, new_carry)), grads = jax.value_and_grad(loss, has_aux=True)(select(params, phase))
        # The losses of microbatches add up to the loss of the batch.
        return (grads, sums | {"loss": value}), new_carry

    if num_microbatches == 1:
        (grads, sums), carry = grad_and_sums(batch, carry)
        return grads, sums, carry
    # Microbatch i takes rows i, i + n, i + 2n, …: each data shard keeps its own rows and nothing moves.
    split = lambda x: jnp.moveaxis(x.reshape(-1, num_microbatches, *x.shape[1:]), 1, 0)
    join = lambda x: jnp.moveaxis(x, 0, 1).reshape(-1, *x.shape[2:])
    microbatches = jax.tree.map(split, (batch, carry))

    def body(total, microbatch_and_carry):
        new, new_carry = grad_and_sums(*microbatch_and_carry)
        return jax.tree.map(jnp.add, total, new), new_carry

    shapes, _ = jax.eval_shape(grad_and_sums, *jax.tree.map(lambda x: x[0], microbatches))
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    (grads, sums), carries = jax.lax.scan(body, zeros, microbatches)
    return grads, sums, jax.tree.map(join, carries)


def select(params: dict[str, Any], phase: Phase) -> dict[str, Any]:
    """The parameters that a phase trains."""
    return {name: params[name] for name in phase.trains}
