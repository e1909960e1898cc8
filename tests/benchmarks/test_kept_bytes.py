"""What a layer keeps for the backward pass, so that it cannot grow back unnoticed."""

import pytest

from electra_jax.benchmarks.kept_bytes import kept_bytes
from electra_jax.configuration.recipes import load_config, own_recipe
from electra_jax.configuration.sizes import with_assumed_sizes
from electra_jax.models.config import make_pretraining_config

# Arrays of a number for each token and unit of the hidden and of the inner width; beside them, the weights of
# attention.
HIDDEN = 8  # the input, queries, keys, values, context, both LayerNorms' inputs and the first one's output
INNER = 2  # before and after GELU
STATISTICS = 4 * 4 + 4  # bytes: mean and scale of two LayerNorms in float32, and the token's segment


def encoder_of(recipe, dtype):
    config = with_assumed_sizes(load_config(own_recipe(recipe)).to_dict())
    return make_pretraining_config(config["model"] | {"dtype": dtype}).discriminator


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize(
    ("recipe", "length"),
    [
        ("configs/electra.py:size=small", 128),
        ("configs/electra.py:size=base", 512),
        ("configs/mcl.py:size=small", 128),
        ("configs/deberta_v3.py:size=base", 512),
    ],
)
def test_a_layer_keeps_each_array_once_in_its_own_dtype(recipe, length, dtype):
    encoder = encoder_of(recipe, dtype)
    numbers = HIDDEN * encoder.hidden_size + INNER * encoder.intermediate_size + encoder.num_heads * length
    width = {"bfloat16": 2, "float32": 4}[dtype]
    expected = numbers * width + STATISTICS
    if encoder.disentangled is not None:
        expected += width  # whether the token is padding
    assert kept_bytes(encoder, length) == pytest.approx(expected, abs=0.1)  # a number or two of each row


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize(("index", "keys"), [(1, 128 + 128), (3, 1024)], ids=["local", "global"])
def test_a_layer_of_modernbert_keeps_the_weights_of_its_window_and_a_third_array_of_the_inner_width(
    index, keys, dtype
):
    encoder = encoder_of("configs/modernbert.py:size=base", dtype)
    # Its two inner arrays are those before the gate and the gate; the third is their product.
    inner = (INNER + 1) * encoder.intermediate_size
    numbers = HIDDEN * encoder.hidden_size + inner + encoder.num_heads * keys
    rotation = 2 * 4 * encoder.head_size // 2  # float32 cosines and sines, which all layers share
    expected = numbers * {"bfloat16": 2, "float32": 4}[dtype] + STATISTICS + rotation
    assert kept_bytes(encoder, 1024, index) == pytest.approx(expected, abs=0.1)


def test_electra_small_keeps_less_than_ten_kilobytes_per_token_and_layer():
    assert kept_bytes(encoder_of("configs/electra.py:size=small", "bfloat16"), 128) < 10_000
