"""Configurations with any value at any key: read, or refused by a ValueError in words, never otherwise."""

import copy
import json

from hypothesis import given, settings
from hypothesis import strategies as st

from configs import debug
from data_pipelines.json_files import check_form, misread
from electra_jax.configuration.sizes import with_assumed_sizes
from electra_jax.finetuning.results import RESULTS_FORM, from_json
from electra_jax.huggingface.configuration import from_config_json
from electra_jax.huggingface.training_settings import read_training_settings
from electra_jax.models.config import make_encoder_config
from electra_jax.runs.trained import read_description

ANY_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["electra", "bert", "deberta-v2", 10**9, -1, 0, 1e300]),
    lambda child: st.lists(child, max_size=3) | st.dictionaries(st.text(max_size=5), child, max_size=3),
    max_leaves=6,
)
RUN = {"config": json.loads(json.dumps(with_assumed_sizes(debug.get_config().to_dict()))), "data": []}
RUN["config"]["data"]["sequence_length"] = 64
COMMON = {
    "vocab_size": 128,
    "embedding_size": 32,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
    "type_vocab_size": 2,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "layer_norm_eps": 1e-12,
    "initializer_range": 0.02,
}
MODELS = {
    "electra": COMMON | {"model_type": "electra"},
    "bert": COMMON | {"model_type": "bert"},
    "deberta-v2": COMMON
    | {
        "model_type": "deberta-v2",
        "relative_attention": True,
        "share_att_key": True,
        "norm_rel_ebd": "layer_norm",
        "pos_att_type": ["p2c", "c2p"],
        "position_buckets": 32,
        "max_relative_positions": -1,
        "position_biased_input": False,
        "conv_kernel_size": 0,
    },
    "electra_relative_bias": COMMON
    | {
        "model_type": "electra_relative_bias",
        "relative_bias_num_buckets": 32,
        "relative_bias_max_distance": 128,
        "position_biased_input": True,
    },
}


def keys_of(value, place=()):
    """The place of every value in dictionaries."""
    if isinstance(value, dict):
        for key, child in value.items():
            yield (*place, key)
            yield from keys_of(child, (*place, key))


def with_value(value, place, new):
    """A copy with another value at a place."""
    value = copy.deepcopy(value)
    inner = value
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = new
    return value


@settings(max_examples=300, deadline=None)
@given(st.sampled_from([*MODELS]), st.data())
def test_any_config_json(model, data):
    key = data.draw(st.sampled_from([*MODELS[model]]))
    config = MODELS[model] | {key: data.draw(ANY_JSON)}
    try:
        with misread("config.json"):
            make_encoder_config(from_config_json(config, enhanced_mask_decoder=False, dtype="float32"))
    except ValueError as error:
        assert str(error)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from([*keys_of(RUN)]), ANY_JSON)
def test_any_training_config_json(tmp_path_factory, place, value):
    path = tmp_path_factory.getbasetemp() / "training_config.json"
    path.write_text(json.dumps(with_value(RUN, place, value)))
    try:
        found = read_training_settings(path)
    except ValueError as error:
        assert str(error).startswith(f"{path}: ")
    else:
        assert found.keys() == {"model", "objective", "optimizer", "data"}


@settings(max_examples=300, deadline=None)
@given(st.sampled_from([*keys_of(RUN)]), ANY_JSON)
def test_any_config_json_of_a_run(tmp_path_factory, place, value):
    workdir = tmp_path_factory.getbasetemp()
    (workdir / "config.json").write_text(json.dumps(with_value(RUN, place, value)))
    try:
        assert "config" in read_description(workdir)
    except (ValueError, FileNotFoundError) as error:
        assert str(workdir) in str(error)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(["model", "seed", "metrics", "settings", "encoder", "more"]), ANY_JSON)
def test_any_results_json(key, value):
    rows = [{"model": "a", "seed": 0, "metrics": {"accuracy": 1.0}} | {key: value}]
    try:
        check_form(rows, RESULTS_FORM, "results.json")
    except ValueError as error:
        assert str(error).startswith("results.json: ")
    else:
        assert from_json(rows)[0].model == "a" or key == "model"
