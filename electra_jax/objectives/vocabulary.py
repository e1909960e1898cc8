"""From the generator's states at masked positions to loss terms and samples: over the whole vocabulary at
once, or in chunks, which bounds memory.

With chunks no [B, P, V] array exists, forward or backward. A pass over the vocabulary carries the running
maximum, the sums of the softmax and the sample drawn so far; the backward pass recomputes each chunk's
logits.

Shapes: B batch, P masked positions, N = B·P rows, E embedding_size, V vocab, C chunk of the vocabulary, K
sampling block.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from electra_jax.models.dropout import mix
from electra_jax.models.layers import broadcast_to_rank, einsum_f32

SAMPLING_BLOCK = 128  # vocabulary entries per block of the two-level inverse CDF


class VocabularyPredictions(NamedTuple):
    """All [B, P]; only the first and the last have a gradient."""

    nll_BP: jax.Array  # float32, cross-entropy of the targets
    is_correct_BP: jax.Array  # bool, no logit is larger than the target's
    entropy_BP: jax.Array  # float32, of the softmax
    samples_BP: jax.Array | None  # int32, drawn from softmax(logits / temperature); None without uniforms
    log_total_BP: jax.Array | None = None  # float32, log Σ exp(logits); of `predict_with_log_total`


def predict_vocabulary(
    x_BPE: jax.Array,
    table_VE: jax.Array,
    bias_V: jax.Array,
    targets_BP: jax.Array,
    uniforms_BP: jax.Array | None,
    *,
    temperature: float | jax.Array,
    chunk_size: int,
    dtype: str,
) -> VocabularyPredictions:
    """Loss terms of logits = x·tableᵀ + bias, and a sample for each uniform number in [0, 1).

    Args:
      temperature: of the samples; a constant of the program, or an array [B, P].
      chunk_size: vocabulary entries per chunk; 0: all at once, which is faster if [B, P, V] fits in memory.
      dtype: the operands of matrix products are rounded to it; sums and logits are float32.
    """
    options = _Options(chunk_size, dtype, uniforms_BP is not None, has_log_total=False)
    return _predict(options, x_BPE, table_VE, bias_V, targets_BP, uniforms_BP, temperature)


def predict_with_log_total(
    x_BPE: jax.Array,
    table_VE: jax.Array,
    bias_V: jax.Array,
    targets_BP: jax.Array,
    uniforms_BP: jax.Array | None,
    *,
    temperature: float,
    chunk_size: int,
    dtype: str,
) -> VocabularyPredictions:
    """`predict_vocabulary` that also returns `log_total_BP`, with its gradient."""
    options = _Options(chunk_size, dtype, uniforms_BP is not None, has_log_total=True)
    return _predict(options, x_BPE, table_VE, bias_V, targets_BP, uniforms_BP, temperature)


def _predict(
    options: "_Options", x_BPE, table_VE, bias_V, targets_BP, uniforms_BP, temperature
) -> VocabularyPredictions:
    if options.chunk_size == 0:
        predictions = _predict_at_once(
            x_BPE, table_VE, bias_V, targets_BP, uniforms_BP, temperature, options.dtype
        )
        return predictions if options.has_log_total else predictions._replace(log_total_BP=None)
    shape = targets_BP.shape
    options = options._replace(chunk_size=min(options.chunk_size, table_VE.shape[0]))
    uniforms_N = jnp.zeros(targets_BP.size) if uniforms_BP is None else uniforms_BP.reshape(-1)
    draw = _Draw(uniforms_N, temperature if jnp.ndim(temperature) == 0 else temperature.reshape(-1))
    rows = _chunked(
        options, x_BPE.reshape(-1, x_BPE.shape[-1]), table_VE, bias_V, targets_BP.reshape(-1), draw
    )
    nll_BP, is_correct_BP, entropy_BP, samples_BP, *more = (row.reshape(shape) for row in rows)
    return VocabularyPredictions(
        nll_BP, is_correct_BP, entropy_BP, None if uniforms_BP is None else samples_BP, *more
    )


def multiply_logits(x_BPE: jax.Array, table_VE: jax.Array, bias_V: jax.Array, dtype: str) -> jax.Array:
    """Logits [B, P, V] over the whole vocabulary, float32; the product's operands are rounded to `dtype`."""
    logits_BPV = nn.with_logical_constraint(
        einsum_f32("BPE,VE->BPV", dtype, x_BPE, table_VE), ("batch", None, "vocab")
    )
    return logits_BPV + broadcast_to_rank(bias_V, 3)


def _predict_at_once(
    x_BPE, table_VE, bias_V, targets_BP, uniforms_BP, temperature, dtype
) -> VocabularyPredictions:
    logits_BPV = multiply_logits(x_BPE, table_VE, bias_V, dtype)
    # The loss and the accuracy need three numbers per position: the maximum, the sum and the target's logit.
    # The target is picked by comparing indices: that stays inside a shard of the vocabulary, and its
    # derivative has no scatter.
    max_BP = jax.lax.stop_gradient(logits_BPV.max(axis=-1))
    exp_BPV = jnp.exp(logits_BPV - max_BP[..., None])
    total_BP = exp_BPV.sum(axis=-1)
    target_logit_BP = pick(logits_BPV, targets_BP)
    nll_BP = jnp.log(total_BP) + max_BP - target_logit_BP
    # Entropy of the softmax: log Z − E[logit].
    expected_BP = jax.lax.stop_gradient((exp_BPV * (logits_BPV - max_BP[..., None])).sum(axis=-1) / total_BP)
    entropy_BP = jax.lax.stop_gradient(jnp.log(total_BP)) - expected_BP
    is_correct_BP = jax.lax.stop_gradient(target_logit_BP) >= max_BP
    samples_BP = None if uniforms_BP is None else sample_tokens(logits_BPV, uniforms_BP, temperature)
    log_total_BP = jnp.log(total_BP) + max_BP
    return VocabularyPredictions(nll_BP, is_correct_BP, entropy_BP, samples_BP, log_total_BP)


def sample_tokens(logits: jax.Array, uniforms: jax.Array, temperature: float | jax.Array) -> jax.Array:
    """Ids […] drawn from softmax(logits […, V] / temperature) by inverse CDF, from one uniform number per
    position instead of one per vocabulary entry. The temperature is a number or has a value for each
    position. No gradient."""
    logits = jax.lax.stop_gradient(logits).astype(jnp.float32) / _column(temperature)
    # Not normalised: the draw is scaled by the total instead.
    return _inverse_cdf(jnp.exp(logits - logits.max(axis=-1, keepdims=True)), uniforms)


def _column(temperature: float | jax.Array) -> float | jax.Array:
    """For products with […, V]."""
    return temperature if jnp.ndim(temperature) == 0 else temperature[..., None]


def _inverse_cdf(weights: jax.Array, uniforms: jax.Array) -> jax.Array:
    """Indices […] drawn in proportion to weights […, V], in two levels: the block of 128 entries in which the
    cumulative sum crosses u, then the entry inside it."""
    padding = [(0, 0)] * (weights.ndim - 1) + [(0, -weights.shape[-1] % SAMPLING_BLOCK)]
    blocks = jnp.pad(weights, padding).reshape(*uniforms.shape, -1, SAMPLING_BLOCK)
    cumulative = jnp.cumsum(blocks.sum(axis=-1), axis=-1)
    block, rest = _first_above(cumulative, uniforms * cumulative[..., -1])
    entries = jnp.take_along_axis(blocks, block[..., None, None], axis=-2)[..., 0, :]
    entry, _ = _first_above(jnp.cumsum(entries, axis=-1), rest)
    return block * SAMPLING_BLOCK + entry


def _first_above(cumulative: jax.Array, threshold: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Index of the first entry above the threshold, and the threshold minus the cumulative sum before that
    entry.

    The threshold is kept below the last sum, so rounding can never select an entry of weight zero.
    """
    threshold = jnp.minimum(threshold, cumulative[..., -1] * (1.0 - 2.0**-23))
    index = (cumulative <= threshold[..., None]).sum(axis=-1, dtype=jnp.int32)
    before = jnp.take_along_axis(cumulative, jnp.maximum(index - 1, 0)[..., None], axis=-1)[..., 0]
    return index, threshold - jnp.where(index > 0, before, 0.0)


def pick(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """The targets' logits; 0 for a target outside the chunk."""
    index = jax.lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1)
    return jnp.where(index == targets[..., None], logits, 0.0).sum(axis=-1)


class _Options(NamedTuple):
    """Constants of the traced program."""

    chunk_size: int
    dtype: str
    is_sampling: bool
    has_log_total: bool


class _Draw(NamedTuple):
    """What samples are drawn with."""

    uniforms_N: jax.Array
    temperature: float | jax.Array  # for all of them, or [N]


class _Running(NamedTuple):
    """State after some chunks, all [N]."""

    max: jax.Array
    total: jax.Array  # Σ exp(logit − max)
    weighted: jax.Array  # Σ exp(logit − max)·(logit − max)
    target_logit: jax.Array
    tempered_total: jax.Array  # Σ exp((logit − max)/temperature)
    sample: jax.Array


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _chunked(options: _Options, x_NE, table_VE, bias_V, targets_N, draw: _Draw):
    return _chunked_forward(options, x_NE, table_VE, bias_V, targets_N, draw)[0]


def _chunked_forward(options, x_NE, table_VE, bias_V, targets_N, draw):
    zeros_N = jnp.zeros(targets_N.shape)
    running = _Running(zeros_N - jnp.inf, zeros_N, zeros_N, zeros_N, zeros_N, targets_N)

    def advance(running, start, table_CE, bias_C):
        return _advance(
            options, running, _logits(options, x_NE, table_CE, bias_C), targets_N, draw, start
        ), None

    running, _ = _over_chunks(options, advance, running, table_VE, bias_V)
    log_total_N = jnp.log(running.total) + running.max
    outputs = (
        log_total_N - running.target_logit,
        running.target_logit >= running.max,
        jnp.log(running.total) - running.weighted / running.total,
        running.sample,
    )
    if options.has_log_total:
        outputs = (*outputs, log_total_N)
    return outputs, (x_NE, table_VE, bias_V, targets_N, log_total_N)


def _advance(options: _Options, running: _Running, logits_NC, targets_N, draw: _Draw, start) -> _Running:
    """The state after one more chunk, which starts with vocabulary entry `start`."""
    max_N = jnp.maximum(running.max, logits_NC.max(axis=-1))
    shift_N = jnp.where(jnp.isinf(running.max), 0.0, running.max - max_N)
    centered_NC = logits_NC - max_N[:, None]
    exp_NC = jnp.exp(centered_NC)
    rescale_N = jnp.exp(shift_N)
    tempered_total_N, sample_N = running.tempered_total, running.sample
    if options.is_sampling:
        weights_NC = jnp.exp(centered_NC / _column(draw.temperature))
        before_N, new_N = tempered_total_N * jnp.exp(shift_N / draw.temperature), weights_NC.sum(axis=-1)
        tempered_total_N = before_N + new_N
        # A sample from the chunk replaces the one so far with the chunk's share of the total.
        uniforms_N = draw.uniforms_N
        is_new_N = _derived_uniforms(uniforms_N, start, 0) * tempered_total_N < new_N
        sample_N = jnp.where(
            is_new_N, start + _inverse_cdf(weights_NC, _derived_uniforms(uniforms_N, start, 1)), sample_N
        )
    return _Running(
        max_N,
        running.total * rescale_N + exp_NC.sum(axis=-1),
        (running.weighted + shift_N * running.total) * rescale_N + (exp_NC * centered_NC).sum(axis=-1),
        running.target_logit + pick(logits_NC, targets_N - start),
        tempered_total_N,
        sample_N,
    )


def _derived_uniforms(uniforms_N, start, draw: int) -> jax.Array:
    """Further uniform numbers in [0, 1), by hashing: rescaling one number to [0, 1) after every decision
    would use up its bits."""
    bits_N = mix(jax.lax.bitcast_convert_type(uniforms_N, jnp.uint32)) + jnp.asarray(
        2 * start + draw, jnp.uint32
    )
    return (mix(bits_N * jnp.uint32(0x9E3779B9)) >> 8).astype(jnp.float32) * 2.0**-24


def _chunked_backward(options, residuals, gradients):
    x_NE, table_VE, bias_V, targets_N, log_total_N = residuals
    gradient_N = gradients[0]

    def advance(x_gradient_NE, start, table_CE, bias_C):
        logits_NC = _logits(options, x_NE, table_CE, bias_C)
        index_NC = jax.lax.broadcasted_iota(jnp.int32, logits_NC.shape, 1)
        is_target_NC = index_NC == (targets_N - start)[:, None]
        softmax_NC = jnp.exp(logits_NC - log_total_N[:, None])
        logits_gradient_NC = (softmax_NC - is_target_NC) * gradient_N[:, None]
        if options.has_log_total:
            logits_gradient_NC += softmax_NC * gradients[-1][:, None]
        x_gradient_NE += einsum_f32("NC,CE->NE", options.dtype, logits_gradient_NC, table_CE)
        return x_gradient_NE, (
            einsum_f32("NC,NE->CE", options.dtype, logits_gradient_NC, x_NE),
            logits_gradient_NC.sum(axis=0),
        )

    x_gradient_NE, (table_gradient_VE, bias_gradient_V) = _over_chunks(
        options, advance, jnp.zeros(x_NE.shape, jnp.float32), table_VE, bias_V
    )
    return (
        x_gradient_NE.astype(x_NE.dtype),
        table_gradient_VE.astype(table_VE.dtype),
        bias_gradient_V,
        None,
        None,
    )


_chunked.defvjp(_chunked_forward, _chunked_backward)


def _logits(options: _Options, x_NE, table_CE, bias_C) -> jax.Array:
    return einsum_f32("NE,CE->NC", options.dtype, x_NE, table_CE) + bias_C[None]


def _over_chunks(options: _Options, advance, carry, table_VE, bias_V):
    """Fold advance(carry, start, table [C, E], bias [C]) → (carry, outputs [C, …]) over the vocabulary; the
    outputs are concatenated.

    The last chunk may be shorter. It gets a separate call, which saves a padded copy of the table.
    """
    vocab_size, chunk_size = table_VE.shape[0], options.chunk_size
    num_whole = vocab_size // chunk_size
    end = num_whole * chunk_size

    def body(carry, index):
        cut = lambda x: jax.lax.dynamic_slice_in_dim(x, index * chunk_size, chunk_size)
        return advance(carry, index * chunk_size, cut(table_VE), cut(bias_V))

    carry, outputs = jax.lax.scan(body, carry, jnp.arange(num_whole))
    outputs = jax.tree.map(lambda x: x.reshape(end, *x.shape[2:]), outputs)
    if end < vocab_size:
        carry, rest = advance(carry, end, table_VE[end:], bias_V[end:])
        outputs = jax.tree.map(lambda *parts: jnp.concatenate(parts), outputs, rest)
    return carry, outputs
