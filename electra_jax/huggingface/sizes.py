"""Whether sizes in a config.json fit the arrays beside it, before anything of these sizes is made."""

import itertools
import re
from collections.abc import Iterable
from typing import Any

from electra_jax.models.config import THETA_LIMIT

# Field of config.json → the least and the greatest whole number that is taken. The greatest are far beyond
# every published model; a file with more is damaged or means harm.
SIZES: dict[str, tuple[int, int]] = {
    "vocab_size": (1, 1 << 24),
    "embedding_size": (1, 1 << 17),
    "hidden_size": (1, 1 << 17),
    "num_hidden_layers": (1, 1000),
    "num_attention_heads": (1, 1 << 12),
    "intermediate_size": (1, 1 << 20),
    "max_position_embeddings": (1, 1 << 20),
    "type_vocab_size": (0, 1 << 16),
    "relative_bias_num_buckets": (4, 1 << 10),
    "relative_bias_max_distance": (2, 1 << 16),
    "position_buckets": (-1, 1 << 16),
    "max_relative_positions": (-1, 1 << 20),
    "conv_kernel_size": (0, 1 << 10),
    "local_attention": (1, 1 << 20),
    "global_attn_every_n_layers": (1, 1000),
}
# The same for numbers; the greatest is not taken.
RATES: dict[str, tuple[float, float]] = {
    "hidden_dropout_prob": (0.0, 1.0),
    "attention_probs_dropout_prob": (0.0, 1.0),
    "attention_dropout": (0.0, 1.0),
    "embedding_dropout": (0.0, 1.0),
    "mlp_dropout": (0.0, 1.0),
    "layer_norm_eps": (1e-30, 1.0),
    "norm_eps": (1e-30, 1.0),
    "global_rope_theta": (1.0, THETA_LIMIT),
    "local_rope_theta": (1.0, THETA_LIMIT),
    "initializer_range": (0.0, 1.0),
}
_LAYER = re.compile(r"(?:^|[./])(?:encoder[./]layer|layers)[._](\d{1,6})[./]")


def check_sizes(config: dict[str, Any]) -> None:
    """Check the numbers in a config.json.

    Raises:
      ValueError: one is of another type, or out of range; names the field.
    """
    for name, (least, greatest) in SIZES.items():
        value = config.get(name, least)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= greatest:
            _refuse(name, value, f"a whole number from {least:,} to {greatest:,}")
    for name, (low, high) in RATES.items():
        value = config.get(name, low)
        if not isinstance(value, int | float) or isinstance(value, bool) or not low <= value < high:
            _refuse(name, value, f"a number from {low:g} to below {high:g}")


def _refuse(name: str, value: Any, expected: str) -> None:
    raise ValueError(
        f"config.json: got {name}={value!r:.60}, expected {expected}. Fetch the model again, or correct "
        "the file."
    )


def check_layers(num_layers: int, names: Iterable[str]) -> None:
    """Raises ValueError if the arrays `names` lack one of the layers that the configuration has, which may be
    any number."""
    found = {int(match[1]) for name in names if (match := _LAYER.search(name))}
    num_missing = num_layers - sum(number < num_layers for number in found)
    if num_missing:
        first = next(number for number in itertools.count() if number not in found)
        raise ValueError(
            f"the configuration has {num_layers:,} layers, but there are no arrays of layer {first} and "
            f"{num_missing - 1:,} more. The weights belong to another model, or are incomplete: fetch them "
            "again."
        )
