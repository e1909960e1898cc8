"""config.json of others' BERT and DeBERTa-v2: taken as `transformers` takes it, or refused by name."""

import pytest
import torch
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
RELATIVE_BIAS = BERT | {
    "model_type": "electra_relative_bias",
    "embedding_size": 8,
    "relative_bias_num_buckets": 8,
    "relative_bias_max_distance": 16,
    "position_biased_input": True,
}
ROTARY = {
    "model_type": "modernbert",
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 24,
    "attention_dropout": 0.0,
    "mlp_dropout": 0.0,
    "norm_eps": 1e-5,
    "initializer_range": 0.02,
    "global_attn_every_n_layers": 3,
    "local_attention": 8,
    "global_rope_theta": 1e4,
    "local_rope_theta": 1e4,
}


def read(config, decoder=False):
    """The frozen configuration that a config.json gives."""
    return make_encoder_config(from_config_json(config, enhanced_mask_decoder=decoder, dtype="float32"))


def test_a_convolution_without_a_named_activation_has_tanh():
    theirs = transformers.DebertaV2Config(**DEBERTA | CONVOLUTION)
    assert ConvLayer(theirs).conv_act == "tanh"
    for named in ({}, {"conv_act": "tanh"}):
        with pytest.raises(ValueError, match="got conv_act='tanh', expected 'gelu'"):
            read(DEBERTA | CONVOLUTION | named)
    assert read(DEBERTA | CONVOLUTION | {"conv_act": "gelu"}).disentangled.conv_kernel_size == 3
    for none in ({}, {"conv_kernel_size": 0}):
        assert read(DEBERTA | none).disentangled.conv_kernel_size == 0


@pytest.mark.parametrize("spelling", ["c2p | p2c", "P2C|C2P", " p2c|c2p"])
def test_kinds_of_attention_are_read_in_any_spelling(spelling):
    theirs = transformers.DebertaV2Config(**DEBERTA | {"pos_att_type": spelling})
    assert sorted(theirs.pos_att_type) == ["c2p", "p2c"]
    assert read(DEBERTA | {"pos_att_type": spelling}) == read(DEBERTA)


def test_one_kind_of_attention_is_refused():
    with pytest.raises(ValueError, match=r"got pos_att_type=\['c2p'\], expected"):
        read(DEBERTA | {"pos_att_type": "C2P"})


@pytest.mark.parametrize("config", [BERT, ROTARY], ids=lambda config: config["model_type"])
def test_embeddings_of_bert_and_modernbert_are_as_wide_as_the_states(config):
    stray = config | {"embedding_size": 8}
    theirs = {"bert": "Bert", "modernbert": "ModernBert"}[config["model_type"]]
    with torch.device("meta"):
        fields = getattr(transformers, f"{theirs}Config")(**stray | {"pad_token_id": 0})
        model = getattr(transformers, f"{theirs}Model")(fields)
    assert model.get_input_embeddings().weight.shape == (40, 16)
    assert read(stray) == read(config) and read(stray).embedding_size == 16


REFUSED = {
    "heads": (
        BERT,
        {"num_attention_heads": 3},
        r"got hidden_size=16, expected a multiple of num_heads \(3\)",
    ),
    "heads of pairs": (ROTARY, {"num_attention_heads": 16}, "got hidden_size=16, expected a multiple of 2 "),
    "window": (ROTARY, {"local_attention": 1}, "got local_attention=1, expected an even number, 2 or more"),
    "width": (DEBERTA, {"embedding_size": 8}, r"got embedding_size=8, expected hidden_size \(16\)"),
    "kernel": (DEBERTA, {"conv_kernel_size": 2, "conv_act": "gelu"}, "got conv_kernel_size=2, expected 0 or"),
    "longest": (DEBERTA, {"max_relative_positions": 2}, "got max_relative_positions=2, expected more than"),
    "type": (DEBERTA, {"position_biased_input": "no"}, "got position_biased_input='no', expected True or"),
    "buckets": (RELATIVE_BIAS, {"relative_bias_num_buckets": 9}, "got relative_bias_num_buckets=9, expected"),
    "several": (
        ROTARY,
        {"num_attention_heads": 3},
        "got hidden_size=16, expected a multiple of 2 .*; got hidden_size=16, expected a multiple of num",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_value_is_refused_by_its_name_in_the_file(name):
    config, changes, message = REFUSED[name]
    read(config)
    with pytest.raises(ValueError, match=rf"config\.json: {message}") as caught:
        read(config | changes)
    assert "config.model" not in str(caught.value) and "\n" not in str(caught.value)


def test_a_decoder_adds_no_positions_that_the_input_has():
    """The recipe of an import has a decoder, the default of transformers has positions in the input."""
    for has_positions in (True, False):
        config = DEBERTA | {"position_biased_input": has_positions}
        assert read(config, decoder=True).disentangled.enhanced_mask_decoder != has_positions


@pytest.mark.parametrize(
    "config", [BERT, DEBERTA, RELATIVE_BIAS, ROTARY], ids=lambda config: config["model_type"]
)
def test_a_rate_that_is_written_as_a_whole_number_becomes_a_float(config):
    rates = {name: round(value) for name, value in config.items() if isinstance(value, float)}
    # Epsilons and bases of wavelengths are never 0.
    rates |= {name: config[name] for name, value in rates.items() if name.endswith("eps")}
    found = from_config_json(config | rates, enhanced_mask_decoder=False, dtype="float32")
    for section in (found, found["rotary"] or {}):
        for name in ("dropout", "range", "theta"):
            assert all(type(value) is float for key, value in section.items() if key.endswith(name)), section
