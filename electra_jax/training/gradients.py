"""Gradients of a phase over the global batch: in microbatches, and in shares whose sums cross the network in bfloat16.

Shapes: B batch, S shares.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from electra_jax.distributed.sharding import BATCH_AXES, share_context
from electra_jax.models.config import DTYPES
from electra_jax.objectives.base import Phase


class Accumulation(NamedTuple):
    """How the batch is cut: into microbatches, one after the other, and with dtype "bfloat16" into `num_shares` first, one for
    each part of the mesh that has rows of its own."""

    num_microbatches: int
    dtype: str
    num_shares: int


def make_accumulation(train: dict[str, Any], num_shares: int) -> Accumulation:
    """What config.train says, on a mesh that cuts the batch into `num_shares`.

    Raises:
      ValueError: an unknown dtype.
    """
    if train["gradient_dtype"] not in DTYPES:
        raise ValueError(f"config.train.gradient_dtype: got {train['gradient_dtype']!r}, expected one of {DTYPES}.")
    return Accumulation(train["num_microbatches"], train["gradient_dtype"], num_shares)


def gradients(phase: Phase, params, batch, normalizers, dropout_key: jax.Array, carry, accumulation: Accumulation):
    """(gradients of what the phase trains, metric sums, carry) of the whole batch.

    Left to itself the compiler sums each gradient over the network in the precision that it was computed in, in every
    microbatch. With dtype "bfloat16" every share of the batch adds up its own gradients in float32, to the last microbatch;
    only then they are rounded, and summed. Shares have dropout keys of their own, so that the noise depends on their number.
    """
    if accumulation.dtype == "float32":
        return accumulate_gradients(phase, params, batch, normalizers, dropout_key, carry, accumulation.num_microbatches)
    num_shares = accumulation.num_shares
    split = lambda x: x.reshape(num_shares, -1, *x.shape[1:])  # noqa: E731
    batch, carry = jax.tree.map(split, (batch, carry))

    def of_share(batch, carry, dropout_key):
        with share_context():
            return accumulate_gradients(phase, params, batch, normalizers, dropout_key, carry, accumulation.num_microbatches)

    grads, sums, carry = jax.vmap(of_share, spmd_axis_name=BATCH_AXES)(batch, carry, jax.random.split(dropout_key, num_shares))
    # reduce_sum, since jnp.sum would go through float32, on the network, too.
    reduce = lambda grad: jax.lax.reduce_sum(grad.astype(jnp.bfloat16), axes=(0,)).astype(jnp.float32)  # noqa: E731
    join = lambda x: x.reshape(-1, *x.shape[2:])  # noqa: E731
    return jax.tree.map(reduce, grads), jax.tree.map(lambda x: x.sum(axis=0), sums), jax.tree.map(join, carry)


def accumulate_gradients(phase: Phase, params, batch, normalizers, dropout_key: jax.Array, carry, num_microbatches: int):
    """(gradients of what the phase trains, metric sums, carry) of the whole batch, computed a microbatch at a time.

    Denominators come from the whole batch, so the result equals that of one large batch however tokens are spread.
    """

    def grad_and_sums(microbatch, carry, index):
        def loss(trained):
            return phase.loss(params | trained, microbatch, normalizers, jax.random.fold_in(dropout_key, index), carry)

        (value, (sums, new_carry)), grads = jax.value_and_grad(loss, has_aux=True)(select(params, phase))
        return (grads, sums | {"loss": value}), new_carry  # of microbatches: they add up to the loss of the batch

    if num_microbatches == 1:
        (grads, sums), carry = grad_and_sums(batch, carry, 0)
        return grads, sums, carry
    # Microbatch i takes rows i, i + n, i + 2n, …: each data shard keeps its own rows and nothing moves.
    split = lambda x: jnp.moveaxis(x.reshape(-1, num_microbatches, *x.shape[1:]), 1, 0)  # noqa: E731
    join = lambda x: jnp.moveaxis(x, 0, 1).reshape(-1, *x.shape[2:])  # noqa: E731
    microbatches = jax.tree.map(split, (batch, carry))

    def body(total, indexed):
        index, (microbatch, carry) = indexed
        new, new_carry = grad_and_sums(microbatch, carry, index)
        return jax.tree.map(jnp.add, total, new), new_carry

    shapes, _ = jax.eval_shape(grad_and_sums, *jax.tree.map(lambda x: x[0], microbatches), 0)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    (grads, sums), carries = jax.lax.scan(body, zeros, (jnp.arange(num_microbatches), microbatches))
    return grads, sums, jax.tree.map(join, carries)


def select(params: dict[str, Any], phase: Phase) -> dict[str, Any]:
    """The parameters that a phase trains."""
    return {name: params[name] for name in phase.trains}
