"""What config.optimizer.name chooses: how clipped gradients become updates.

    name           direction                                weight decay   then
    adam           Adam's, bias-corrected only with         added          group rate, learning rate
                   bias_correction
    adamw          Adam's, bias-corrected                   added          the same
    stable_adamw   Adam's, bias-corrected                   added          is divided by max(1, RMS of g/√v)
    lamb           Adam's, bias-corrected                   added          scaled by ‖parameter‖/‖update‖
                                                                           (trust ratio)
    muon           orthogonalised momentum for matrices     added          the same as adamw
                   of hidden layers; the rest as adamw
    adafactor      mean over the steps of g/√v, v factored  added          the same
                   into rows and columns of a matrix

adamw is `optax.adamw` and torch.optim.AdamW. The RMS of stable_adamw is counted in units of update_clip. A
tensor that is initialised to zero hardly learns with lamb, since its updates get its own small norm: lamb is
refused with model.embedding_sharing="gdes", whose discriminator has such a table.

adafactor keeps 2 bytes for a weight where Adam keeps 8: one moment in bfloat16 (none if beta1 is 0), and the
sums of rows and columns. Like Zhai et al. it does not scale its rates by the size of the parameter.

Sources: Loshchilov & Hutter 2019, Decoupled Weight Decay Regularization; Wortsman et al. 2023, Stable and
low-precision training for large-scale vision-language models; You et al. 2020, Large Batch Optimization for
Deep Learning; Jordan et al. 2024, Muon; Liu et al. 2025, Muon is Scalable for LLM Training; Shazeer & Stern
2018, Adafactor; Zhai et al. 2021, Scaling Vision Transformers (the moment in half precision).
"""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

ADAM, ADAMW, STABLE_ADAMW, LAMB, MUON, ADAFACTOR = NAMES = (
    "adam",
    "adamw",
    "stable_adamw",
    "lamb",
    "muon",
    "adafactor",
)
# "rate": a step shrinks a weight by the factor 1 − rate · weight_decay, as torch.optim.AdamW. "schedule": by
# 1 − (rate/peak) · weight_decay, as the paper on decoupled decay, Composer and ModernBERT.
DECAY_FOLLOWS = ("rate", "schedule")
# The kernels that Muon orthogonalises. Embeddings, projections of embeddings, heads, convolutions, biases
# and norms are not in layers.
HIDDEN_MATRIX = re.compile(r"(^|/)layer_\d+/.*kernel$")
# Axes of the input and of the output of a kernel, by its rank: [D, F], and [D, H, K] of attention.
MATRIX_AXES = {
    2: optax.contrib.MuonDimensionNumbers(0, 1),
    3: optax.contrib.MuonDimensionNumbers(0, (1, 2)),
}
# Adafactor factors the two largest axes of a tensor if both are as long as this (the published code's limit).
FACTORED_FROM = 128
# Precision of Muon's matrix products, the same as that of the model's own, by config.model.dtype.
PRECISION = {"float32": "highest", "bfloat16": "default"}


class Factors(NamedTuple):
    """Trees of numbers, shaped like the parameters."""

    rates: Any  # multiply the learning rate
    decays: Any  # weight decay
    has_decay: Any  # whether the group has weight decay, whatever its size


def make_update_rule(
    optimizer: Mapping[str, Any], factors: Factors, schedule: Callable, dtype: str
) -> tuple[optax.GradientTransformation, ...]:
    """The transformations after the clipping of gradients, to be chained.

    Args:
      optimizer: config.optimizer.
      factors: per-parameter multipliers and weight decay.
      schedule: step → learning rate.
      dtype: of the model.

    Returns:
      Transformations that turn clipped gradients into the updates to add to the parameters.
    """
    name, peak = optimizer["name"], optimizer["learning_rate"]
    direction = _direction(optimizer, factors, dtype)
    if optimizer["weight_decay_follows"] == "schedule":
        rates = jax.tree.map(lambda rate: peak * rate, factors.rates)
        steps = (
            direction,
            scale_by_tree(rates),
            decay_weights(factors.decays),
            optax.scale_by_learning_rate(lambda step: schedule(step) / peak),
        )
    else:
        adapted = () if name != LAMB else (optax.masked(optax.scale_by_trust_ratio(), factors.has_decay),)
        steps = (
            direction,
            decay_weights(factors.decays),
            *adapted,
            scale_by_tree(factors.rates),
            optax.scale_by_learning_rate(schedule),
        )
    if name == STABLE_ADAMW:
        return (clip_updates(optax.chain(*steps), optimizer),)
    return steps


def _direction(optimizer: Mapping[str, Any], factors: Factors, dtype: str) -> optax.GradientTransformation:
    moments = {"b1": optimizer["beta1"], "b2": optimizer["beta2"], "eps": optimizer["epsilon"]}
    if optimizer["name"] == ADAM and not optimizer["bias_correction"]:
        return scale_by_uncorrected_adam(**moments)
    if optimizer["name"] == ADAFACTOR:
        return scale_by_adafactor(**moments, clip=optimizer["update_clip"])
    adam = optax.scale_by_adam(**moments)
    if optimizer["name"] != MUON:
        return adam
    is_matrix = hidden_matrices(factors.rates)
    return optax.chain(
        optax.masked(orthogonalize(optimizer["muon_momentum"], optimizer["muon_rms"], dtype), is_matrix),
        optax.masked(adam, jax.tree.map(lambda is_muon: not is_muon, is_matrix)),
    )


def hidden_matrices(tree: Any) -> Any:
    """Tree of bools: whether Muon orthogonalises the parameter."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: bool(HIDDEN_MATRIX.search(jax.tree_util.keystr(path, simple=True, separator="/"))),
        tree,
    )


def orthogonalize(momentum: float, rms: float, dtype: str) -> optax.GradientTransformation:
    """Muon's direction: Nesterov momentum whose singular values five Newton–Schulz iterations bring near 1.

    A kernel [D, H, K] of attention counts as one matrix [D, H·K].

    Args:
      rms: above 0, the root mean square of the updates of any matrix, as of Adam's (0.2 in Liu et al.), so
        that Adam's learning rate fits; 0: Jordan's scale, √max(1, outputs/inputs).
      dtype: of the model, which decides the precision of the products.
    """
    axes_of = lambda updates: jax.tree.map(lambda leaf: MATRIX_AXES[leaf.ndim], updates)
    muon = optax.contrib.scale_by_muon(beta=momentum, weight_dimension_numbers=axes_of)

    def scale(update):
        inputs, outputs = update.shape[0], math.prod(update.shape[1:])
        size = rms * max(inputs, outputs) ** 0.5 if rms else max(1.0, outputs / inputs) ** 0.5
        return size * update

    def update(updates, state, params=None):
        with jax.default_matmul_precision(PRECISION[dtype]):
            updates, state = muon.update(updates, state, params)
        return jax.tree.map(scale, updates), state

    return optax.GradientTransformation(muon.init, update)


def scale_by_adafactor(b1: float, b2: float, eps: float, clip: float) -> optax.GradientTransformation:
    """Adafactor's direction: g/√v, scaled down to an RMS of `clip` in each tensor, averaged over the steps.

    A kernel [D, H, K] of attention counts as one matrix [D, H·K]: K alone is too short to be factored.

    Args:
      b1: of the average, kept in bfloat16 without bias correction; 0: no average, and no memory for it.
      b2: the most that v keeps of its past. Before, that is 1 − t^-0.8 after t steps, as published.
      eps: its square is added to g²; published: 1e-15.
    """
    kept = lambda step, exponent: jnp.minimum(1.0 - (step + 1.0) ** -exponent, b2)
    inner = optax.scale_by_factored_rms(
        min_dim_size_to_factor=FACTORED_FROM, epsilon=eps**2, decay_rate_fn=kept
    )

    def as_matrices(tree):
        is_kernel = hidden_matrices(tree)
        flatten = lambda leaf, is_one: leaf.reshape(len(leaf), -1) if is_one and leaf.ndim == 3 else leaf
        return jax.tree.map(flatten, tree, is_kernel)

    def update(updates, state, params=None):
        found, state = inner.update(as_matrices(updates), state, as_matrices(params))
        return jax.tree.map(lambda new, old: new.reshape(old.shape), found, updates), state

    factored = optax.GradientTransformation(lambda params: inner.init(as_matrices(params)), update)
    average = (half_precision_average(b1),) if b1 else ()
    return optax.chain(factored, optax.clip_by_block_rms(clip), *average)


def half_precision_average(decay: float) -> optax.GradientTransformation:
    """The moving average of updates, stored in bfloat16 and computed in float32: `optax.ema` would round
    `decay` to bfloat16 as well, in which 0.999 is 1."""

    def init(params):
        return optax.TraceState(optax.tree.zeros_like(params, dtype=jnp.bfloat16))

    def update(updates, state, params=None):
        del params
        average = lambda kept, new: decay * kept.astype(jnp.float32) + (1 - decay) * new
        updates = jax.tree.map(average, state.trace, updates)
        return updates, optax.TraceState(optax.tree.cast(updates, jnp.bfloat16))

    return optax.GradientTransformation(init, update)


def clip_updates(
    inner: optax.GradientTransformation, optimizer: Mapping[str, Any]
) -> optax.GradientTransformation:
    """Divide every tensor's update, weight decay included, by max(1, RMS/update_clip), where RMS² is the mean
    of g²/max(v, ε²): g its gradient, v the bias-corrected second moment after this step.

    `inner` is a chain that begins with Adam's direction. Source: Wortsman et al. 2023, algorithm 2, whose
    corrected betas are Adam's bias correction in another form.
    """
    beta2, floor, threshold = optimizer["beta2"], optimizer["epsilon"] ** 2, optimizer["update_clip"]

    def update(grads, state, params=None):
        updates, state = inner.update(grads, state, params)
        second_moments = optax.tree.bias_correction(state[0].nu, beta2, state[0].count)

        def clip(update, grad, second_moment):
            rms = jnp.sqrt(jnp.mean(jnp.square(grad) / jnp.maximum(second_moment, floor)))
            return update / jnp.maximum(1.0, rms / threshold)

        return jax.tree.map(clip, updates, grads, second_moments), state

    return optax.GradientTransformation(inner.init, update)


def scale_by_uncorrected_adam(b1: float, b2: float, eps: float) -> optax.GradientTransformation:
    """Adam's direction m/(√v + ε) without bias correction, as in BERT's and ELECTRA's
    AdamWeightDecayOptimizer."""

    def init(params):
        zeros = lambda: jax.tree.map(jnp.zeros_like, params)
        return optax.ScaleByAdamState(count=jnp.zeros([], jnp.int32), mu=zeros(), nu=zeros())

    def update(updates, state, params=None):
        del params
        mu = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, state.mu, updates)
        nu = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g * g, state.nu, updates)
        updates = jax.tree.map(lambda m, v: m / (jnp.sqrt(v) + eps), mu, nu)
        return updates, optax.ScaleByAdamState(count=optax.safe_increment(state.count), mu=mu, nu=nu)

    return optax.GradientTransformation(init, update)


def decay_weights(decays: Any) -> optax.GradientTransformation:
    """Add decay · parameter to every update; `decays` is a tree of floats."""
    return optax.stateless(
        lambda updates, params: jax.tree.map(lambda u, d, p: u + d * p, updates, decays, params)
    )


def scale_by_tree(factors: Any) -> optax.GradientTransformation:
    """Multiply every update by its own factor; `factors` is a tree of floats."""
    return optax.stateless(lambda updates, _: jax.tree.map(lambda u, f: u * f, updates, factors))
