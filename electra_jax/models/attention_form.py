"""Which form of attention runs: XLA's products ("plain"), or a device's kernels, of DeBERTa's disentangled
attention or of BERT's and ModernBERT's.

It follows from config.train.attention, the device that the program is for (traced_device.py), and the shape.
"""

import math
from collections.abc import Sequence

import jax
from flax import linen as nn

from electra_jax.distributed.chips import CHIPS, chip_of
from electra_jax.models.config import EncoderConfig
from electra_jax.models.traced_device import traced_device

# TPUs for which the kernels have been compiled. v4 lacks the instruction that shifts rows, and has 16 MiB of
# on-chip memory (VMEM).
TPUS = ("v5e", "v5p", "v6e")
# Longest rows: on a TPU keys, values and tables must fit in its VMEM. On a GPU none longer were compiled.
LONGEST = {
    "tpu": {"bfloat16": 4096, "float32": 2048},
    "gpu": {"bfloat16": 4096, "float32": 4096},
}
HEAD_SIZES = (32, 64, 128)  # features of a head; a TPU's kernel reads 128 together
# BERT's and ModernBERT's attention (tpu/attention.py): the shortest rows in which "auto" uses kernels; the
# longest whose scores fit into VMEM, those of all keys or of the keys within a window; the widest window.
SHORTEST = 512
LONGEST_WHOLE, LONGEST_WINDOWED = 1024, 8192
LONGEST_REACH = 128  # the greatest distance of a key
# Rows above LONGEST_WHOLE (splash_attention.py): heads for which the kernels have been compiled.
SPLASH_HEAD_SIZES = (64, 128)


def uses_kernels(
    wanted: str, config: EncoderConfig, shape_BLHK: tuple[int, ...], *, is_directed: bool
) -> bool:
    """Whether disentangled attention over queries of this shape runs as kernels.

    With "auto" it does on TPUs alone: on GPUs the kernels have not been timed.

    Args:
      wanted: "auto", "plain" or "pallas" (`LayerExecution`).
      is_directed: a query attends in one direction only.

    Raises:
      ValueError: `wanted` is "pallas", and the kernels cannot compute this shape, or not on this TPU.
    """
    device = traced_device()
    if wanted == "plain" or (wanted == "auto" and not (device.platform == "tpu" and has_kernels(device))):
        return False
    problem = "" if device.platform == "gpu" else _chip_problem(device)
    return _decide(wanted, problem or _problem(config, shape_BLHK, is_directed))


def uses_splash(
    wanted: str,
    keep_prob: float,
    dtype: str,
    shape_BLHK: tuple[int, ...],
    *,
    is_directed: bool,
    has_bias: bool,
) -> bool:
    """Whether attention to the whole document runs as JAX's kernels (models/splash_attention.py), in rows
    above LONGEST_WHOLE.

    Args:
      wanted: "auto", "plain" or "pallas" (`LayerExecution`).
      keep_prob: probability that dropout keeps a weight of attention; 1: no dropout.
      dtype: of the model.
      is_directed: a query attends in one direction only.
      has_bias: a bias is added to the scores.

    Raises:
      ValueError: `wanted` is "pallas", and the kernels cannot compute this, or not on this device.
    """
    device = traced_device()
    if wanted == "plain" or (wanted == "auto" and device.platform != "tpu"):
        return False
    problem = _chip_problem(device) or _bert_problem(is_directed, has_bias)
    long_rows = f"in rows above {LONGEST_WHOLE}"
    problem = problem or _dropout_problem(keep_prob, long_rows)
    # Their products do not ask for a precision, so that a TPU would round float32.
    if dtype != "bfloat16" and not are_interpreted():
        problem = problem or f"need config.model.dtype='bfloat16' {long_rows} (here {dtype!r})"
    problem = problem or _head_problem(SPLASH_HEAD_SIZES, shape_BLHK[3])
    return _decide(wanted, problem or _mesh_problem(shape_BLHK))


def uses_row_kernels(
    wanted: str,
    keep_prob: float,
    reach: int | None,
    shape_BLHK: tuple[int, ...],
    *,
    is_directed: bool,
    has_bias: bool,
) -> bool:
    """Whether attention to the whole document or within a window runs as our kernels
    (models/tpu/attention.py), over queries of this shape.

    With "auto" it does on TPUs alone, in rows of SHORTEST tokens or more.

    Args:
      wanted: "auto", "plain" or "pallas" (`LayerExecution`).
      keep_prob: probability that dropout keeps a weight of attention; 1: no dropout.
      reach: the greatest distance of a key, in tokens; None: any, in rows of at most LONGEST_WHOLE tokens.
      is_directed: a query attends in one direction only.
      has_bias: a bias is added to the scores.

    Raises:
      ValueError: `wanted` is "pallas", and the kernels cannot compute this, or not on this device.
    """
    length, device = shape_BLHK[1], traced_device()
    if wanted == "plain" or (wanted == "auto" and (length < SHORTEST or device.platform != "tpu")):
        return False
    problem = _chip_problem(device) or _bert_problem(is_directed, has_bias)
    if reach is not None:
        problem = problem or _dropout_problem(keep_prob, "in local layers") or _window_problem(reach, length)
    problem = problem or _head_problem(HEAD_SIZES, shape_BLHK[3])
    return _decide(wanted, problem or _mesh_problem(shape_BLHK))


def _decide(wanted: str, problem: str) -> bool:
    """Whether there is no problem; an error if there is one and the kernels are `wanted`."""
    if problem and wanted == "pallas":
        raise ValueError(
            f"config.train.attention: got 'pallas', whose kernels {problem}. Give 'auto', which then does "
            "without them, or 'plain'."
        )
    return not problem


def has_kernels(device: jax.Device | jax.sharding.AbstractDevice) -> bool:
    """Whether there are kernels for devices of this kind."""
    return device.platform == "gpu" or chip_of(device.device_kind) in [CHIPS[name] for name in TPUS]


def kernels_platform() -> str:
    """Whose kernels run, "tpu" or "gpu": elsewhere a TPU's, interpreted."""
    return "gpu" if traced_device().platform == "gpu" else "tpu"


def are_interpreted() -> bool:
    """Whether the kernels would be interpreted, which is slow and for tests: neither on TPUs nor on GPUs."""
    return traced_device().platform not in LONGEST


def mesh_axes_of(name: str) -> tuple[str, ...]:
    """The mesh axes that cut a logical axis, by the rules in context."""
    (axes,) = nn.logical_to_mesh_axes((name,))
    return () if axes is None else (axes,) if isinstance(axes, str) else tuple(axes)


def _alternatives(values: Sequence) -> str:
    """Such as "32, 64 or 128"."""
    return f"{', '.join(map(str, values[:-1]))} or {values[-1]}"


def _chip_problem(device: jax.Device | jax.sharding.AbstractDevice) -> str:
    """Why a TPU's kernels do not run on this device; "" if they do, also on a CPU, interpreted."""
    if device.platform == "cpu" or (device.platform == "tpu" and has_kernels(device)):
        return ""
    return f"need a TPU {_alternatives(TPUS)} (this device is a {device.device_kind})"


def _problem(config: EncoderConfig, shape_BLHK: tuple[int, ...], is_directed: bool) -> str:
    """What the kernels of disentangled attention cannot compute of this; "" if there is nothing."""
    length, longest = shape_BLHK[1], LONGEST[kernels_platform()][config.dtype]
    problem = _direction_problem(is_directed) or _head_problem(HEAD_SIZES, config.head_size)
    if length > longest:
        problem = problem or f"need rows of at most {longest} tokens in {config.dtype} (these have {length})"
    return problem or _mesh_problem(shape_BLHK)


def _bert_problem(is_directed: bool, has_bias: bool) -> str:
    """What the kernels of BERT's attention cannot compute of this; "" if there is nothing."""
    if has_bias:
        return "add no bias to the scores, as config.model.position='relative_bias' does"
    return _direction_problem(is_directed)


def _window_problem(reach: int, length: int) -> str:
    """What the kernels cannot compute of attention within a window; "" if there is nothing."""
    if length > LONGEST_WINDOWED:
        return f"need rows of at most {LONGEST_WINDOWED} tokens (these have {length})"
    if reach > LONGEST_REACH:
        return f"need config.model.rotary.window of at most {2 * LONGEST_REACH} (here {2 * reach})"
    return ""


def _dropout_problem(keep_prob: float, where: str) -> str:
    if keep_prob == 1.0:
        return ""
    return f"need config.model.attention_dropout=0 {where} (here {1.0 - keep_prob:g})"


def _direction_problem(is_directed: bool) -> str:
    return "attend in both directions (Electric's noise model attends in one)" if is_directed else ""


def _head_problem(sizes: Sequence[int], head_size: int) -> str:
    if head_size in sizes:
        return ""
    return f"need heads of {_alternatives(sizes)} features (these have {head_size})"


def _mesh_problem(shape_BLHK: tuple[int, ...]) -> str:
    """Whether the mesh does not divide the rows or the heads; "" if it does."""
    batch, _, heads, _ = shape_BLHK
    mesh = jax.sharding.get_abstract_mesh()
    for size, name in ((batch, "batch"), (heads, "heads")):
        axes = mesh_axes_of(name)
        parts = math.prod(mesh.shape[axis] for axis in axes) if not mesh.empty else 1
        if size % parts:
            return f"need {name} that the mesh's {'·'.join(axes)}={parts} divides (here {size})"
    return ""
