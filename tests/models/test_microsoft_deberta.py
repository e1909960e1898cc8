"""Log buckets, disentangled attention and the whole encoder against Microsoft's own package, DeBERTa 0.1.12.

Its requirements can no longer be installed (it asks for the retired name `sklearn`). The modules used here
need only torch, numpy and packaging, so install it with `pip install --no-deps DeBERTa==0.1.12`. They compute
in float64, so that nothing which a process sets for PyTorch's float32 products matters.
"""

import collections
import importlib
import logging
import sys
import types
from importlib.util import find_spec
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import linen as nn

from electra_jax.benchmarks.relative_attention import GatheredSelfAttention
from electra_jax.models.config import make_pretraining_config
from electra_jax.models.deberta_encoder import DebertaEncoder
from electra_jax.models.disentangled_attention import DisentangledSelfAttention, log_bucket, relative_rows
from electra_jax.models.inputs import derive_inputs
from support.tiny import SPECIAL, deberta_section, key

BUCKETS, MAX_POSITIONS, HEADS, HIDDEN = 256, 512, 2, 32
LENGTHS = pytest.mark.parametrize("length", [16, 200, 512])
ATTENTIONS = pytest.mark.parametrize("attention", [DisentangledSelfAttention, GatheredSelfAttention])
TOLERANCE = 2e-5


@pytest.fixture(scope="module")
def microsoft():
    """Modules `da_utils`, `disentangled_attention` and `bert` of the package, as published in 2021.

    The __init__ files of its subpackages import tokenizers and set up logging; empty modules stand in for
    them here.
    """
    package = find_spec("DeBERTa")
    assert package, "Microsoft's package is missing: pip install --no-deps DeBERTa==0.1.12"
    root = Path(package.origin).parent
    for name in ("deberta", "utils"):
        subpackage = types.ModuleType(f"DeBERTa.{name}")
        subpackage.__path__ = [str(root / name)]
        sys.modules[subpackage.__name__] = subpackage
    sys.modules["DeBERTa.utils"].get_logger = logging.getLogger
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                collections, "Sequence", collections.abc.Sequence, raising=False
            )  # gone since Python 3.10
            modules = {
                name: importlib.import_module(f"DeBERTa.deberta.{name}")
                for name in ("da_utils", "disentangled_attention", "bert")
            }
        modules["da_utils"].np = types.SimpleNamespace(
            **vars(np), int=int
        )  # removed in NumPy 1.24; restored for this module only
        yield types.SimpleNamespace(**modules)
    finally:
        for name in [name for name in sys.modules if name.split(".")[0] == "DeBERTa"]:
            del sys.modules[name]


def our_config(conv_kernel_size=0, num_layers=3):
    shape = {"hidden_size": HIDDEN, "num_layers": num_layers, "num_heads": HEADS, "intermediate_size": 64}
    return make_pretraining_config(
        deberta_section(
            embedding_size=HIDDEN,
            max_position_embeddings=512,
            generator=shape,
            discriminator=shape,
            hidden_dropout=0.1,
            attention_dropout=0.1,
            disentangled={
                "position_buckets": BUCKETS,
                "max_relative_positions": MAX_POSITIONS,
                "position_biased_input": False,
                "enhanced_mask_decoder": True,
                "conv_kernel_size": conv_kernel_size,
            },
        )
    ).generator


def their_config(config):
    """The same in the words of experiments/language_model/rtd_*.json."""
    return types.SimpleNamespace(
        hidden_size=config.hidden_size,
        num_attention_heads=config.num_heads,
        num_hidden_layers=config.num_layers,
        intermediate_size=config.intermediate_size,
        hidden_act="gelu",
        hidden_dropout_prob=0.1,
        attention_probs_dropout_prob=0.1,
        layer_norm_eps=config.layer_norm_epsilon,
        max_position_embeddings=512,
        max_relative_positions=-1,
        relative_attention=True,
        position_buckets=BUCKETS,
        norm_rel_ebd="layer_norm",
        share_att_key=True,
        pos_att_type="p2c|c2p",
        conv_kernel_size=config.disentangled.conv_kernel_size,
        conv_act="gelu",
    )


def padded_inputs(length):
    """Two rows of one document each, one of them two fifths padding."""
    ids = np.full((2, length), 50, np.int32)
    ids[:, 0] = SPECIAL.cls
    ids[1, length * 3 // 5 :] = SPECIAL.pad
    return derive_inputs(jnp.asarray(ids), SPECIAL, 1)


def random_params(module, *args):
    """Random parameters, also of biases and LayerNorms, large enough that attention is not uniform."""
    leaves, tree = jax.tree.flatten(nn.meta.unbox(module.init(key(), *args)["params"]))
    rng = np.random.default_rng(0)
    return jax.tree.unflatten(
        tree, [leaf + rng.normal(0, 0.2, leaf.shape).astype(np.float32) for leaf in leaves]
    )


def draw(*shape, seed):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def linear(name, params):
    """state_dict entries of a torch Linear or LayerNorm from ours: [D, H, K] or [D, F] → [F, D]."""
    if "scale" in params:
        return {
            f"{name}.weight": torch.tensor(np.asarray(params["scale"])),
            f"{name}.bias": torch.tensor(np.asarray(params["bias"])),
        }
    kernel = np.asarray(params["kernel"])
    return {
        f"{name}.weight": torch.tensor(kernel.reshape(kernel.shape[0], -1).T.copy()),
        f"{name}.bias": torch.tensor(np.asarray(params["bias"]).reshape(-1).copy()),
    }


def attention_weights(params):
    return {
        leaf: value
        for role in ("query", "key", "value")
        for leaf, value in linear(f"{role}_proj", params[role]).items()
    }


def encoder_weights(params):
    out = linear("LayerNorm", params["LayerNorm"])
    out["rel_embeddings.weight"] = torch.tensor(np.asarray(params["rel_embeddings"]))
    for name in (name for name in params if name.startswith("layer_")):
        layer, tree = f"layer.{name.removeprefix('layer_')}", params[name]
        out |= {
            f"{layer}.attention.self.{leaf}": value
            for leaf, value in attention_weights(tree["attention"]).items()
        }
        for theirs, ours in (
            ("attention.output.dense", tree["attention"]["output"]),
            ("attention.output.LayerNorm", tree["attention_LayerNorm"]),
            ("intermediate.dense", tree["intermediate"]),
            ("output.dense", tree["output"]),
            ("output.LayerNorm", tree["output_LayerNorm"]),
        ):
            out |= linear(f"{layer}.{theirs}", ours)
    if "conv" in params:
        out |= linear("conv.LayerNorm", params["conv"]["LayerNorm"])
        out["conv.conv.weight"] = torch.tensor(
            np.asarray(params["conv"]["kernel"]).transpose(2, 1, 0).copy()
        )  # [F, D, taps]
        out["conv.conv.bias"] = torch.tensor(np.asarray(params["conv"]["bias"]))
    return out


@pytest.mark.parametrize("length", [16, 200, 512, 700])
def test_buckets_are_microsofts(microsoft, length):
    positions = np.arange(length)
    distance = positions[:, None] - positions[None, :]
    ours = log_bucket(distance, BUCKETS, MAX_POSITIONS)
    np.testing.assert_array_equal(
        ours, microsoft.da_utils.make_log_bucket_position(distance, BUCKETS, MAX_POSITIONS)
    )
    theirs = microsoft.da_utils.build_relative_position(length, length, BUCKETS, MAX_POSITIONS)[0].numpy()
    rows = relative_rows(our_config().disentangled, length)
    np.testing.assert_array_equal(
        rows.matrix(length) + rows.first, np.clip(theirs + BUCKETS, 0, 2 * BUCKETS - 1)
    )


@pytest.mark.parametrize("buckets, max_positions", [(32, 128), (48, 100), (256, 300), (128, 1024)])
def test_buckets_are_microsofts_at_other_sizes(microsoft, buckets, max_positions):
    distance = np.arange(-3 * max_positions, 3 * max_positions + 1)
    np.testing.assert_array_equal(
        log_bucket(distance, buckets, max_positions),
        microsoft.da_utils.make_log_bucket_position(distance, buckets, max_positions),
    )


@LENGTHS
@ATTENTIONS
@pytest.mark.parametrize("has_stream", [False, True], ids=["self", "stream"])
def test_attention_is_microsofts(microsoft, length, attention, has_stream):
    """The context before the output projection, at every position, padding included."""
    config, inputs = our_config(), padded_inputs(length)
    hidden, table = draw(2, length, HIDDEN, seed=1), draw(2 * BUCKETS, HIDDEN, seed=2)
    stream = draw(2, length, HIDDEN, seed=3) if has_stream else hidden
    module = attention(config, is_first_layer=False)
    params = random_params(module, stream, hidden, table, inputs, False)
    params["output"] = {
        "kernel": jnp.eye(HIDDEN),
        "bias": jnp.zeros(HIDDEN),
    }  # identity: the result is the context
    ours = jax.jit(lambda *args: module.apply({"params": params}, *args, False))(
        stream, hidden, table, inputs
    )

    theirs = microsoft.disentangled_attention.DisentangledSelfAttention(their_config(config)).double().eval()
    theirs.load_state_dict(attention_weights(params), strict=True)
    real = torch.tensor(np.asarray(inputs.is_token_BL))
    with torch.no_grad():
        expected = theirs(
            torch.tensor(hidden).double(),
            (real[:, None, :, None] & real[:, None, None, :]).byte(),
            query_states=torch.tensor(stream).double() if has_stream else None,
            rel_embeddings=torch.tensor(table).double(),
        )
    assert expected["attention_probs"].amax() > 0.5  # sharp enough that a wrong score would show
    np.testing.assert_allclose(ours, expected["hidden_states"].numpy(), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("conv_kernel_size", [0, 3])
@pytest.mark.parametrize("has_decoder", [False, True], ids=["plain", "decoder"])
def test_encoder_is_microsofts(microsoft, conv_kernel_size, has_decoder):
    """Three layers, the normalised table and v2's convolution. The enhanced mask decoder, which this version
    of the package does not have, is built from its layers."""
    length = 200
    config, inputs = our_config(conv_kernel_size), padded_inputs(length)
    real = np.asarray(inputs.is_token_BL)
    embedded, positions = draw(2, length, HIDDEN, seed=4) * real[:, :, None], draw(2, length, HIDDEN, seed=5)
    module, extra = DebertaEncoder(config), (positions,) if has_decoder else ()
    params = random_params(module, embedded, inputs, False, *extra)
    ours = jax.jit(lambda x, inputs: module.apply({"params": params}, x, inputs, False, *extra))(
        embedded, inputs
    )

    encoder = microsoft.bert.BertEncoder(their_config(config)).double().eval()
    encoder.load_state_dict(encoder_weights(params), strict=True)
    mask = torch.tensor(real.astype(np.int64))
    with torch.no_grad():
        layers = encoder(torch.tensor(embedded).double(), mask)
        expected = layers[-1]
        if has_decoder:
            expected = layers[-2] + torch.tensor(positions)
            for _ in range(2):
                expected = encoder.layer[-1](
                    layers[-2],
                    encoder.get_attention_mask(mask),
                    query_states=expected,
                    rel_embeddings=encoder.get_rel_embedding(),
                )
    np.testing.assert_allclose(np.asarray(ours)[real], expected.numpy()[real], atol=TOLERANCE, rtol=0)
