"""Our kernels on this device beside plain references: attention, its weights, dropout masks, LayerNorm,
matrix products and the losses over the vocabulary; outputs and gradients.

References are what the equations say, written with `jax.numpy` and plain differentiation, or NumPy in
float64. The largest difference is given relative to the largest number of the reference. In float32 a part of
1e-5 is allowed: products at full precision differ by some 1e-6 (sums in another order), products in TF32 by
1e-3. In bfloat16, whose numbers have 8 bits, two correct programs that round at other places differ by a few
times 2⁻⁸, so 0.03 is allowed.

Shapes: B batch, L length, D hidden, H heads, M key length, E embedding_size, P masked positions, V vocab.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from electra_jax.benchmarks import relative_attention
from electra_jax.benchmarks.accelerator.parts import Job
from electra_jax.benchmarks.training_step import SPECIAL, random_rows
from electra_jax.configuration.recipes import load_config, own_recipe
from electra_jax.configuration.sizes import with_assumed_sizes
from electra_jax.models.attention_form import has_kernels
from electra_jax.models.attention_weights import attend
from electra_jax.models.config import DTYPES, EncoderConfig, make_pretraining_config
from electra_jax.models.dropout import keep_mask
from electra_jax.models.global_attention import global_attention
from electra_jax.models.inputs import EncoderInputs, derive_inputs
from electra_jax.models.layers import einsum_f32, gelu, layer_norm
from electra_jax.models.local_attention import local_attention
from electra_jax.objectives.vocabulary import predict_vocabulary
from electra_jax.training.state import unbox

ALLOWED = {"float32": 1e-5, "bfloat16": 0.03}
RECIPE = "configs/deberta_v3.py:size=xsmall"
ATTENTION_SHAPES = ((4, 128), (2, 512))
TIMED_SHAPE = (32, 512)
# Name, tokens of a row, and the greatest distance of a key: JAX's kernels, and both forms of ours.
LONG_CASES = (
    ("global attention", 2048, None),
    ("global attention, whole rows", 1024, None),
    ("local attention", 2048, 64),
)
LONG_SHAPE = (2, 4, 64)  # rows, heads, features of a head
VOCAB_SIZE, CHUNK_SIZE = 5003, 1024  # the last chunk is shorter


def run_part(job: Job) -> None:
    """Check every kernel in each dtype."""
    for dtype in DTYPES:
        for batch_size, length in ATTENTION_SHAPES:
            name = f"disentangled attention {batch_size} × {length}"
            check(job, name, dtype, compare_attention("skew", dtype, batch_size, length))
            if has_kernels(jax.devices()[0]):
                gaps = compare_attention("pallas", dtype, batch_size, length)
                check(job, f"{name} in kernels", dtype, gaps)
        check(job, "vocabulary loss in chunks", dtype, compare_vocabulary(dtype))
        check(job, "matrix product", dtype, compare_product(dtype))
    check(job, "attention weights", "float32", compare_weights())
    check(job, "LayerNorm", "float32", compare_layer_norm())
    check(job, "GELU", "float32", compare_gelu())
    same = bool((device_mask() == reference_mask()).all())
    job.recorder.check("dropout masks, bit for bit", same, got=same, expected=True)
    if jax.devices()[0].platform == "tpu" and has_kernels(jax.devices()[0]):
        for name, length, reach in LONG_CASES:
            check(job, f"{name} in kernels", "bfloat16", compare_long_rows("bfloat16", length, reach))
    if has_kernels(jax.devices()[0]):
        time_attention(job)


def time_attention(job: Job) -> None:
    """Record the time and memory of each form of attention in bfloat16, forward and backward."""
    batch_size, length = TIMED_SHAPE
    figures = relative_attention.compare_attention(
        _encoder("bfloat16"), batch_size=batch_size, length=length, rounds=3, steps=10
    )
    job.recorder.add(attention=figures | {"batch_size": batch_size, "length": length})


def check(job: Job, name: str, dtype: str, gaps: dict[str, float]) -> None:
    """Record the largest differences of a kernel, by output."""
    worst = max(gaps, key=gaps.get)
    figures = job.recorder.result.figures.get("kernels", {})
    job.recorder.add(kernels=figures | {f"{name}, {dtype}": gaps})
    job.recorder.check(
        f"{name}, {dtype} (largest difference: {worst})",
        gaps[worst] <= ALLOWED[dtype],
        got=f"{gaps[worst]:.1e}",
        expected=f"at most {ALLOWED[dtype]:.0e}",
    )


def compare_trees(names: list[str], got: Any, wanted: Any) -> dict[str, float]:
    """Name → max |got − wanted| ÷ max |wanted| over the arrays of that entry; infinite if a number is not
    finite."""
    gaps = {}
    for name, *both in zip(names, got, wanted, strict=True):
        # Relative to the largest number of the entry: some gradients, such as the key bias's, are zero up
        # to rounding.
        one, other = (
            np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(tree)])
            for tree in both
        )
        gap = np.abs(one - other).max() / max(np.abs(other).max(), 1e-30)
        gaps[name] = float(gap) if np.isfinite(gap) else float("inf")
    return gaps


def compare_attention(form: str, dtype: str, batch_size: int, length: int) -> dict[str, float]:
    """Disentangled attention in a form of LAYERS, compared with gathers, the equations as written; output and
    gradients, with dropout."""
    encoder = _encoder(dtype)
    ids_BL = random_rows(encoder.vocab_size, batch_size, length)
    keys = jax.random.split(jax.random.key(0), 4)
    x_BLD = jax.random.normal(keys[0], (batch_size, length, encoder.hidden_size)).astype(dtype)
    table_RD = jax.random.normal(
        keys[1], (2 * encoder.disentangled.position_buckets, encoder.hidden_size)
    ).astype(dtype)
    target_BLD = jax.random.normal(keys[2], x_BLD.shape)
    params = _attention_params(encoder, ids_BL, x_BLD, table_RD)
    results = [
        jax.jit(functools.partial(_attention, each, encoder, ids_BL))(params, x_BLD, table_RD, target_BLD)
        for each in (form, "gather")
    ]
    names = ["output", "gradients of parameters", "gradient of the input", "gradient of the relative table"]
    return compare_trees(names, *results)


def _encoder(dtype: str) -> EncoderConfig:
    config = with_assumed_sizes(load_config(own_recipe(RECIPE)).to_dict())
    return make_pretraining_config(config["model"] | {"dtype": dtype}).discriminator


def _attention_params(encoder: EncoderConfig, ids_BL, x_BLD, table_RD) -> Any:
    def init(key):
        inputs = derive_inputs(jnp.asarray(ids_BL), SPECIAL, 0)
        layer = relative_attention.LAYERS["skew"](encoder, is_first_layer=False)
        params = layer.init({"params": key, "dropout": key}, x_BLD, x_BLD, table_RD, inputs, True)["params"]
        # Larger than initial ones, so that attention is not uniform.
        return jax.tree.map(lambda leaf: 3.0 * leaf, unbox(params))

    return jax.jit(init)(jax.random.key(1))


def _attention(form: str, encoder: EncoderConfig, ids_BL, params, x_BLD, table_RD, target_BLD) -> tuple:
    layer = relative_attention.LAYERS[form](encoder, is_first_layer=False)

    def loss(params, x_BLD, table_RD):
        inputs = derive_inputs(jnp.asarray(ids_BL), SPECIAL, 0)
        rngs = {"dropout": jax.random.key(2)}
        y_BLD = layer.apply({"params": params}, x_BLD, x_BLD, table_RD, inputs, True, rngs=rngs)
        return (y_BLD.astype(jnp.float32) * target_BLD).sum(), y_BLD

    gradients, y_BLD = jax.grad(loss, argnums=(0, 1, 2), has_aux=True)(params, x_BLD, table_RD)
    return (y_BLD, *gradients)


def compare_vocabulary(dtype: str) -> dict[str, float]:
    """The loss over a vocabulary in chunks beside that over all of it at once, with entropies and
    gradients."""
    keys = jax.random.split(jax.random.key(0), 4)
    x_BPE = jax.random.normal(keys[0], (4, 16, 64))
    table_VE = jax.random.normal(keys[1], (VOCAB_SIZE, 64)) / 8.0
    bias_V = jax.random.normal(keys[2], (VOCAB_SIZE,))
    targets_BP = jax.random.randint(keys[3], (4, 16), 0, VOCAB_SIZE)

    def compute(chunk_size, x_BPE, table_VE, bias_V):
        def loss(x_BPE, table_VE, bias_V):
            found = predict_vocabulary(
                x_BPE, table_VE, bias_V, targets_BP, None, temperature=1.0, chunk_size=chunk_size, dtype=dtype
            )
            return found.nll_BP.sum(), (found.nll_BP, found.entropy_BP)

        gradients, outputs = jax.grad(loss, argnums=(0, 1, 2), has_aux=True)(x_BPE, table_VE, bias_V)
        return (*outputs, *gradients)

    results = [
        jax.jit(functools.partial(compute, chunk_size))(x_BPE, table_VE, bias_V)
        for chunk_size in (CHUNK_SIZE, 0)
    ]
    names = ["losses", "entropies", "gradient of the states", "gradient of the table", "gradient of the bias"]
    return compare_trees(names, *results)


def compare_product(dtype: str) -> dict[str, float]:
    """`einsum_f32` and its gradients, beside NumPy in float64 on operands rounded to `dtype`."""
    keys = jax.random.split(jax.random.key(0), 3)
    x_BD, y_DE = jax.random.normal(keys[0], (256, 512)), jax.random.normal(keys[1], (512, 384))
    gradient_BE = jax.random.normal(keys[2], (256, 384))
    product = functools.partial(einsum_f32, "BD,DE->BE", dtype)

    def compute(x_BD, y_DE, gradient_BE):
        z_BE, pullback = jax.vjp(product, x_BD, y_DE)
        return (z_BE, *pullback(gradient_BE))

    rounded = [np.asarray(array.astype(dtype), np.float64) for array in (x_BD, y_DE, gradient_BE)]
    wanted = (rounded[0] @ rounded[1], rounded[2] @ rounded[1].T, rounded[0].T @ rounded[2])
    got = jax.jit(compute)(x_BD, y_DE, gradient_BE)
    names = ["product", "gradient of the first operand", "gradient of the second operand"]
    return compare_trees(names, got, wanted)


def compare_weights() -> dict[str, float]:
    """The softmax of attention with its own derivative, beside plain differentiation; without dropout."""
    keys = jax.random.split(jax.random.key(0), 3)
    scores_BHLM = 3.0 * jax.random.normal(keys[0], (4, 4, 128, 128))
    segments_BL = jnp.sort(jax.random.randint(keys[1], (4, 128), 0, 3), axis=-1)
    gradient_BHLM = jax.random.normal(keys[2], scores_BHLM.shape)
    same_B1LM = segments_BL[:, None, :, None] == segments_BL[:, None, None, :]
    plain = lambda scores: jax.nn.softmax(jnp.where(same_B1LM, scores, -1e9), axis=-1)
    zeros_BL = jnp.zeros_like(segments_BL)
    inputs = EncoderInputs(segments_BL, zeros_BL, zeros_BL, jnp.arange(4, dtype=jnp.uint32))
    # The context of values that are the unit vectors is the weights.
    value_BMHK = jnp.broadcast_to(jnp.eye(128)[None, :, None], (4, 128, 4, 128))
    ours = lambda scores: attend(1.0, "float32", scores, value_BMHK, inputs, None).swapaxes(1, 2)
    return _compare_functions(ours, plain, scores_BHLM, gradient_BHLM)


def compare_long_rows(dtype: str, length: int, reach: int | None) -> dict[str, float]:
    """Attention to the whole document, or to keys at most `reach` away, in a TPU's kernels, beside the
    softmax of all masked scores in float32 (BERT, ModernBERT); context and gradients, without dropout."""
    keys = jax.random.split(jax.random.key(0))
    batch_size, *head_shape = LONG_SHAPE
    shape = (4, batch_size, length, *head_shape)
    query_BLHK, key_BMHK, value_BMHK, target_BLHK = jax.random.normal(keys[0], shape)
    # Scores with a deviation of 2, so that attention is not uniform.
    arrays = tuple(
        x.astype(dtype) for x in (query_BLHK * 2.0 / np.sqrt(LONG_SHAPE[-1]), key_BMHK, value_BMHK)
    )
    segments_BL = jnp.sort(jax.random.randint(keys[1], (batch_size, length), 0, 5), axis=-1)
    zeros_BL = jnp.zeros_like(segments_BL)
    inputs = EncoderInputs(segments_BL, zeros_BL, zeros_BL, jnp.arange(len(query_BLHK), dtype=jnp.uint32))
    index_L = jnp.arange(length)
    is_near_LM = jnp.abs(index_L[:, None] - index_L[None]) <= (length if reach is None else reach)
    allowed_B1LM = (segments_BL[:, None, :, None] == segments_BL[:, None, None, :]) & is_near_LM[None, None]

    def plain(query_BLHK, key_BMHK, value_BMHK):
        scores_BHLM = einsum_f32("BLHK,BMHK->BHLM", "float32", query_BLHK, key_BMHK)
        weights_BHLM = jax.nn.softmax(jnp.where(allowed_B1LM, scores_BHLM, -1e9), axis=-1)
        return einsum_f32("BHLM,BMHK->BLHK", "float32", weights_BHLM, value_BMHK)

    def in_kernels(*arrays):
        if reach is None:
            return global_attention(1.0, dtype, arrays, inputs, None, form="pallas")
        return local_attention(1.0, dtype, reach, arrays, inputs, None, form="pallas")

    def compute(function, arrays):
        context_BLHK, pullback = jax.vjp(function, *arrays)
        return (context_BLHK, *pullback(target_BLHK.astype(context_BLHK.dtype)))

    got, wanted = (jax.jit(functools.partial(compute, one))(arrays) for one in (in_kernels, plain))
    names = ["context", "gradient of queries", "gradient of keys", "gradient of values"]
    return compare_trees(names, got, wanted)


def compare_layer_norm() -> dict[str, float]:
    """`layer_norm` with its own derivative, beside plain differentiation."""
    keys = jax.random.split(jax.random.key(0), 2)
    x_BD, gradient_BD = (2.0 + jax.random.normal(key, (512, 768)) for key in keys)

    def plain(x_BD):
        variance_B1 = jnp.var(x_BD, axis=-1, keepdims=True)
        return (x_BD - jnp.mean(x_BD, axis=-1, keepdims=True)) / jnp.sqrt(variance_B1 + 1e-7)

    ours = lambda x_BD: layer_norm(1e-7, "float32", x_BD, jnp.ones(768), jnp.zeros(768))
    return _compare_functions(ours, plain, x_BD, gradient_BD)


def compare_gelu() -> dict[str, float]:
    """`gelu` with its own derivative, beside plain differentiation of JAX's."""
    x_BD, gradient_BD = (
        2.0 * jax.random.normal(key, (512, 768)) for key in jax.random.split(jax.random.key(0))
    )
    return _compare_functions(gelu, functools.partial(jax.nn.gelu, approximate=False), x_BD, gradient_BD)


def _compare_functions(
    ours: Callable, plain: Callable, x: jax.Array, gradient: jax.Array
) -> dict[str, float]:
    def compute(function, x, gradient):
        y, pullback = jax.vjp(function, x)
        return (y, *pullback(gradient))

    got, wanted = (jax.jit(functools.partial(compute, one))(x, gradient) for one in (ours, plain))
    return compare_trees(["output", "gradient"], got, wanted)


MASK_SHAPE, KEEP_PROB, MASK_SEED = (8, 128, 768), 0.9, 5


def device_mask() -> np.ndarray:
    """A dropout mask that the device draws."""
    return np.asarray(jax.jit(lambda key: keep_mask(key, KEEP_PROB, MASK_SHAPE))(jax.random.key(MASK_SEED)))


def reference_mask() -> np.ndarray:
    """The same mask computed with NumPy: see models/dropout.py for the hash."""

    def mix(x):
        x = (x ^ (x >> np.uint32(16))) * np.uint32(0x7FEB352D)
        x = (x ^ (x >> np.uint32(15))) * np.uint32(0x846CA68B)
        return x ^ (x >> np.uint32(16))

    first, second = np.asarray(jax.random.key_data(jax.random.key(MASK_SEED)), np.uint32).ravel()[:2]
    rows = np.arange(MASK_SHAPE[0] * MASK_SHAPE[1], dtype=np.uint32).reshape(*MASK_SHAPE[:2], 1)
    rows = mix(mix(rows ^ first) ^ second)
    columns = np.arange(MASK_SHAPE[2], dtype=np.uint32)
    return mix(rows + columns * np.uint32(0x9E3779B9)) < np.uint32(round(KEEP_PROB * 2**32))
