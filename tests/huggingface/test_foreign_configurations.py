"""config.json of others' BERT and DeBERTa-v2: taken as `transformers` takes it, or refused by name."""

import pytest
import transformers
from transformers.models.deberta_v2.modeling_deberta_v2 import ConvLayer

from electra_jax.huggingface.configuration import from_config_json
from electra_jax.models.config import make_encoder_config

BERT = {
    "model_type": "bert",
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 24,
    "type_vocab_size": 2,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "layer_norm_eps": 1e-7,
    "initializer_range": 0.02,
}
DEBERTA = BERT | {
    "model_type": "deberta-v2",
    "relative_attention": True,
    "share_att_key": True,
    "norm_rel_ebd": "layer_norm",
    "pos_att_type": ["p2c", "c2p"],
    "position_buckets": 4,
    "position_biased_input": False,
}
CONVOLUTION = {"conv_kernel_size": 3}


def read(config):
    """The frozen configuration that a config.json gives."""
    return make_encoder_config(from_config_json(config, enhanced_mask_decoder=False, dtype="float32"))


def test_a_convolution_without_a_named_activation_has_tanh():
    theirs = transformers.DebertaV2Config(**DEBERTA | CONVOLUTION)
    assert ConvLayer(theirs).conv_act == "tanh"
    for named in ({}, {"conv_act": "tanh"}):
        with pytest.raises(ValueError, match="got conv_act='tanh', expected 'gelu'"):
            read(DEBERTA | CONVOLUTION | named)
    assert read(DEBERTA | CONVOLUTION | {"conv_act": "gelu"}).disentangled.conv_kernel_size == 3
    for none in ({}, {"conv_kernel_size": 0}):
        assert read(DEBERTA | none).disentangled.conv_kernel_size == 0
