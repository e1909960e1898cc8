"""Which share of a chip's peak becomes model FLOPs, and the published measurements that say so.

No accelerator has run this code yet. A range therefore ends at about the highest figure published for a
similar encoder. It starts at half of the lowest one on GPUs in bfloat16, and at about the lowest one on TPUs
and in float32. On GPUs this code has no fused attention, and neither have the programs measured by NVIDIA and
Google. On a TPU v5e, v5p or v6e DeBERTa's is fused, and so is global attention without dropout in long rows
(`train.attention`). The ranges do not take that into account, since no TPU has timed it.
Shares are of the peak of the dtype, as `distributed/chips.py` has it.
"""

from collections.abc import Sequence
from typing import NamedTuple

from electra_jax.planning.network import Range


class Utilization(NamedTuple):
    """A range of shares of the peak."""

    low: float
    high: float
    source: str  # what the range rests on


_A100 = Utilization(
    0.09,
    0.24,
    "ELECTRA base in NVIDIA's TensorFlow code on A100: 18.7 % with 512 tokens, 23.9 % with 128",
)
_H100 = Utilization(
    0.09,
    0.26,
    "at most ModernBERT base on 8 H100, which has flash attention and no padding, 26 %; at least half of "
    "ELECTRA base at NVIDIA on A100, 18.7 %",
)
_OTHER_GPU = Utilization(
    0.09, 0.31, "none published for this GPU; from A100 (18.7 %) to V100 (31 %), ELECTRA base at NVIDIA"
)
_TPU = Utilization(
    0.10,
    0.35,
    "none published for this TPU; on v3 ELECTRA base 9.9 % (paper) and 23 % (cantoformer), GPT-2 of 345M "
    "35 % (Levanter)",
)
_CPU = Utilization(0.2, 0.6, "an assumption, as is the peak")
BFLOAT16 = {
    "a100-40": _A100,
    "a100-80": _A100,
    "h100": _H100,
    "h200": _H100._replace(source=f"none published for this GPU; as H100: {_H100.source}"),
    "b200": _H100._replace(source=f"none published for this GPU; as H100: {_H100.source}"),
    **dict.fromkeys(("l4", "l40s", "rtx4090"), _OTHER_GPU),
    **dict.fromkeys(("v4", "v5e", "v5p", "v6e", "tpu7x"), _TPU),
    "cpu": _CPU,
}
# float32's peak is much lower, so that products take a larger share of the time.
_FLOAT32_GPU = Utilization(
    0.20, 0.60, "ELECTRA on V100 in float32: base at NVIDIA 52–58 %, small at Google 21 %; none for this GPU"
)
_FLOAT32_TPU = Utilization(0.10, 0.60, "none published for float32 at the highest precision on a TPU")
# DeBERTa's position terms add a tenth to the FLOPs and more to the time: 1.3 times BERT's (DeBERTa, appendix)
# to 2.57 times (DeBERTaV3 base in inference on an RTX 4090, ModernBERT's Table 3).
_DISENTANGLED = (1.1 / 2.57, 1.1 / 1.3)


def utilization_of(chip: str, dtype: str, position: str) -> Utilization:
    """The range for an encoder on a chip.

    Args:
      chip: a name in CHIPS.
      dtype: "bfloat16" or "float32".
      position: config.model.position. "relative_bias" and "rotary" are taken for "absolute".
    """
    found = BFLOAT16[chip]
    if dtype == "float32" and chip != "cpu":
        found = _FLOAT32_TPU if found is _TPU else _FLOAT32_GPU
    if position != "disentangled":
        return found
    low, high = _DISENTANGLED
    source = f"{found.source}; less for disentangled attention, unfused 1.3 to 2.6 times as slow as BERT's"
    return Utilization(found.low * low, found.high * high, source)


def read_utilization(words: Sequence[str]) -> Range:
    """The range given as one number or two.

    Raises:
      ValueError: these are not one or two shares of the peak.
    """
    try:
        low, high = float(words[0]), float(words[-1])
    except (ValueError, IndexError):
        low, high = 0.0, 0.0
    if len(words) > 2 or not 0 < low <= high <= 1:
        raise ValueError(
            f"--utilization: got {','.join(words)!r}, expected a share of the peak, such as 0.2, or the "
            "lowest and the highest: 0.1,0.3."
        )
    return Range(low, high)
