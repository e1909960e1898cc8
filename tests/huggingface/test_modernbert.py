"""ModernBERT in `transformers`: names, both forms of config.json, the detector, checkpoints of others."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from electra_jax.conversion.import_checkpoint import import_checkpoint
from electra_jax.huggingface.configuration import from_config_json, to_config_json
from electra_jax.huggingface.modernbert import MODERN_BERT, with_old_names
from electra_jax.huggingface.names import from_file, to_file
from electra_jax.huggingface.published_models import PublishedModule, to_published
from electra_jax.huggingface.readers import read_directory
from electra_jax.huggingface.sizes import check_layers
from electra_jax.huggingface.task_heads import check_exportable, task_config_json
from electra_jax.models.config import make_encoder_config, make_pretraining_config
from electra_jax.models.inputs import derive_inputs
from electra_jax.runs.trained import load_run
from electra_jax.training.schedules import make_schedule
from electra_jax.training.state import unbox
from support import tiny_export
from support.import_options import DEFAULT
from support.tiny import SPECIAL

ENCODER = make_pretraining_config(tiny_export.modern_model()).discriminator
FROM_FILE = {"enhanced_mask_decoder": False, "dtype": "float32", "attention_output_dropout": 0.1}
# The tensors that all classes have, as the source of transformers 4.48 names them, for a model of 4 layers,
# 32 wide, feed-forward 48.
LAYER = {
    "attn_norm.weight": (32,),
    "attn.Wqkv.weight": (96, 32),
    "attn.Wo.weight": (32, 32),
    "mlp_norm.weight": (32,),
    "mlp.Wi.weight": (96, 32),
    "mlp.Wo.weight": (32, 48),
}
GOLDEN = {
    "model.embeddings.tok_embeddings.weight": (tiny_export.VOCAB, 32),
    "model.embeddings.norm.weight": (32,),
    **{f"model.layers.{n}.{name}": shape for n in range(4) for name, shape in LAYER.items()},
    "model.final_norm.weight": (32,),
    "head.dense.weight": (32, 32),
    "head.norm.weight": (32,),
}
del GOLDEN["model.layers.0.attn_norm.weight"]
HEADS = {
    "discriminator": {"classifier.weight": (1, 32), "classifier.bias": (1,)},
    "generator": {"decoder.bias": (tiny_export.VOCAB,)},
}
# config.json of answerdotai/ModernBERT-base, as far as it concerns the model.
PUBLISHED = {
    "architectures": ["ModernBertForMaskedLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "classifier_activation": "gelu",
    "classifier_bias": False,
    "decoder_bias": True,
    "embedding_dropout": 0.0,
    "global_attn_every_n_layers": 3,
    "global_rope_theta": 160000.0,
    "hidden_activation": "gelu",
    "hidden_size": 768,
    "initializer_range": 0.02,
    "intermediate_size": 1152,
    "layer_norm_eps": 1e-05,
    "local_attention": 128,
    "local_rope_theta": 10000.0,
    "max_position_embeddings": 8192,
    "mlp_bias": False,
    "mlp_dropout": 0.0,
    "model_type": "modernbert",
    "norm_bias": False,
    "norm_eps": 1e-05,
    "num_attention_heads": 12,
    "num_hidden_layers": 22,
    "position_embedding_type": "absolute",
    "tie_word_embeddings": True,
    "vocab_size": 50368,
}


def random_tree(role):
    """Parameters of a published model with random values."""
    ids = jnp.ones((1, 4), jnp.int32)
    module, inputs = PublishedModule(ENCODER, role), derive_inputs(ids, SPECIAL, 0)
    shapes = unbox(jax.eval_shape(lambda: module.init(jax.random.key(0), ids, inputs)["params"]))
    draw = np.random.default_rng(0).normal
    return jax.tree.map(lambda leaf: draw(size=leaf.shape).astype(np.float32), shapes)


@pytest.mark.parametrize("role", HEADS)
def test_names_and_shapes_are_those_of_transformers(role):
    arrays = to_file(MODERN_BERT, role, random_tree(role))
    assert {name: array.shape for name, array in arrays.items()} == GOLDEN | HEADS[role]
    config = transformers.ModernBertConfig(
        **to_config_json(ENCODER, role, special=SPECIAL, dtype="float32"), num_labels=1
    )
    loader = {"discriminator": "ModernBertForTokenClassification", "generator": "ModernBertForMaskedLM"}[role]
    with torch.device("meta"):
        state = getattr(transformers, loader)(config).state_dict()
    state.pop("decoder.weight", None)  # tied
    assert {name: tuple(value.shape) for name, value in state.items()} == GOLDEN | HEADS[role]


def test_joined_arrays_hold_their_parts_in_order_and_are_taken_apart():
    tree = random_tree("discriminator")
    layer, arrays = tree["encoder"]["layer_1"], to_file(MODERN_BERT, "discriminator", tree)
    query, key, value = (layer["attention"][role]["kernel"] for role in ("query", "key", "value"))
    wqkv, wi = (arrays[f"model.layers.1.{name}.weight"] for name in ("attn.Wqkv", "mlp.Wi"))
    for part, kernel in zip(np.split(wqkv, 3), (query, key, value), strict=True):
        np.testing.assert_array_equal(part, kernel.reshape(32, 32).T)
    np.testing.assert_array_equal(
        wi, np.concatenate([layer[n]["kernel"].T for n in ("intermediate", "gate")])
    )
    flat = {"/".join(key.key for key in path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}
    shapes = {path: leaf.shape for path, leaf in flat.items()}
    for prefix in ("", "model."):  # ModernBertModel saves itself without it
        names = {name.removeprefix(prefix): array for name, array in arrays.items()}
        found = from_file(MODERN_BERT, "discriminator", names, shapes)
        assert not found.missing and not found.unused
        for path, leaf in flat.items():
            np.testing.assert_array_equal(found.leaves[path], leaf)
    for wrong in (wqkv[:-1], wqkv[:-3], wqkv[0, 0]):
        with pytest.raises(ValueError, match=r"layers\.1\.attn\.Wqkv\[\d/3\]\.weight: got an array of"):
            from_file(
                MODERN_BERT, "discriminator", arrays | {"model.layers.1.attn.Wqkv.weight": wrong}, shapes
            )
    check_layers(4, arrays)
    with pytest.raises(ValueError, match="no arrays of layer 4"):
        check_layers(5, arrays)


def read(config):
    """The frozen configuration that a config.json gives."""
    return make_encoder_config(from_config_json(json.loads(json.dumps(config)), **FROM_FILE))


@pytest.mark.parametrize("role", HEADS)
def test_the_configuration_is_restored_from_both_forms(role):
    fields = to_config_json(ENCODER, role, special=SPECIAL, dtype="float32")
    assert read(fields) == ENCODER
    newest = transformers.ModernBertConfig(**fields).to_dict()
    assert "rope_parameters" in newest and read(newest) == ENCODER
    of_four = ("global_attn_every_n_layers", "global_rope_theta", "local_rope_theta")
    assert read({name: value for name, value in newest.items() if name not in of_four}) == ENCODER
    theirs = transformers.ModernBertConfig(**fields)
    assert theirs.layer_types == [f"{kind}_attention" for kind in ("full", "sliding", "sliding", "full")]
    assert theirs.rope_parameters["full_attention"]["rope_theta"] == 160_000.0
    assert (theirs.sliding_window, theirs.pad_token_id, theirs.cls_token_id) == (4, SPECIAL.pad, SPECIAL.cls)
    assert (theirs.sep_token_id, theirs.bos_token_id, theirs.eos_token_id) == (2, 1, 2)


def test_published_files_are_read():
    encoder = read(PUBLISHED)
    assert (encoder.num_layers, encoder.rotary.window, encoder.layer_norm_epsilon) == (22, 128, 1e-5)
    assert (encoder.rotary.global_theta, encoder.rotary.local_theta) == (160_000.0, 10_000.0)
    # Ettin's differ in these.
    ettin = PUBLISHED | {"local_rope_theta": None, "position_embedding_type": "sans_pos", "is_causal": False}
    assert read(ettin).rotary.local_theta == 160_000.0


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 8), st.integers(1, 12))
def test_the_interval_of_global_layers_is_read_from_their_types(interval, num_layers):
    kinds = ("full_attention", "sliding_attention")
    types = [kinds[layer % interval > 0] for layer in range(num_layers)]
    config = {"layer_types": types, "num_hidden_layers": num_layers}
    found = with_old_names(config)["global_attn_every_n_layers"]
    assert [kinds[layer % found > 0] for layer in range(num_layers)] == types
    known = config | {"global_attn_every_n_layers": interval}
    assert with_old_names(known)["global_attn_every_n_layers"] == interval


ROPE = {"rope_type": "default", "rope_theta": 1e4}
REFUSED = {
    "norm_bias": ({"norm_bias": True}, "got norm_bias=True, expected False"),
    "attention_bias": ({"attention_bias": True}, "got attention_bias=True, expected False"),
    "mlp_bias": ({"mlp_bias": True}, "got mlp_bias=True, expected False"),
    "classifier_bias": ({"classifier_bias": True}, "got classifier_bias=True, expected False"),
    "decoder_bias": ({"decoder_bias": False}, "got decoder_bias=False, expected True"),
    "untied": ({"tie_word_embeddings": False}, "got tie_word_embeddings=False, expected True"),
    "activation": ({"hidden_activation": "silu"}, "got hidden_activation='silu', expected 'gelu'"),
    "activation of the head": ({"classifier_activation": "relu"}, "got classifier_activation='relu'"),
    "causal": ({"is_causal": True}, "got is_causal=True"),
    "scaled": ({"rope_scaling": {"type": "linear"}}, "got rope_scaling="),
    "another type": (
        {"rope_parameters": {"full_attention": ROPE | {"rope_type": "yarn"}}},
        "got rope_parameters=.*, expected rope_theta for full_attention",
    ),
    "no kinds": ({"rope_parameters": ROPE}, "got rope_parameters=.*, expected rope_theta for full_attention"),
    "two thetas": (
        {"rope_parameters": {"full_attention": ROPE}},
        r"got global_rope_theta=160000\.0, but layer_types and rope_parameters say 10000\.0",
    ),
    "irregular": ({"layer_types": ["full_attention"] * 21 + ["sliding_attention"]}, "got layer_types="),
    "too few types": ({"layer_types": ["full_attention"]}, "got layer_types="),
    "no list": ({"layer_types": 5}, "got layer_types=5"),
    "no theta": ({"global_rope_theta": "x"}, "got global_rope_theta='x', expected a number"),
    "interval": ({"global_attn_every_n_layers": 0}, "got global_attn_every_n_layers=0, expected a whole"),
    "number of layers": (
        {"num_hidden_layers": "x", "layer_types": ["full_attention"]},
        "got num_hidden_layers='x', expected a whole",
    ),
    "dropouts": ({"embedding_dropout": 0.1}, "got embedding_dropout=0.1 and mlp_dropout=0.0"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_our_encoder_cannot_compute_is_refused_by_name(name):
    changes, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        read(PUBLISHED | changes)


@pytest.mark.parametrize("field", ["norm_eps", "local_rope_theta", "global_attn_every_n_layers"])
def test_a_missing_field_is_not_assumed(field):
    with pytest.raises(ValueError, match=f"{field} missing"):
        read({name: value for name, value in PUBLISHED.items() if name != field})


def saved(directory, loader, **more):
    """A tiny ModernBERT of others, as transformers 5 saves it."""
    torch.manual_seed(0)
    fields = to_config_json(ENCODER, "generator", special=SPECIAL, dtype="float32") | more
    model = getattr(transformers, loader)(transformers.ModernBertConfig(**fields)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(directory)
    return model


def outputs_of(run, role, method=None):
    """Random ids, and what a published model of a run computes for them."""
    ids = np.random.default_rng(0).integers(5, tiny_export.VOCAB, size=(2, 20)).astype(np.int32)
    weights = to_published(run.params, run.model)[role]
    inputs = derive_inputs(jnp.asarray(ids), SPECIAL, 0)
    module = PublishedModule(weights.config, role)
    apply = jax.jit(lambda params: module.apply({"params": params}, jnp.asarray(ids), inputs, method=method))
    return torch.from_numpy(ids.astype(np.int64)), apply(weights.params)


def test_a_masked_language_model_of_others_becomes_a_discriminator(data, tmp_path):
    """From the files of transformers 5."""
    model = saved(tmp_path / "theirs", "ModernBertForMaskedLM")
    options = DEFAULT._replace(
        tokenizer=data / "tokenizer_corpus", recipe="configs/debug.py:model=modernbert"
    )
    notes = "\n".join(import_checkpoint(tmp_path / "theirs", tmp_path / "run", options))
    assert "discriminator: newly initialised (not in the file): head/LayerNorm/scale" in notes
    assert "its first 1 layer," in notes and "not used: decoder.bias, head.dense.weight" in notes
    run = load_run(tmp_path / "run")
    # The file has one rate for two dropouts; the recipe has none at the output.
    rotary = dataclasses.replace(ENCODER.rotary, attention_output_dropout=0.0)
    assert run.model.discriminator.rotary == rotary and run.model.generator.num_layers == 1
    states = lambda module, ids, inputs: module.encoder(module.embeddings(ids, inputs, False), inputs, False)
    ids, got = outputs_of(run, "discriminator", states)
    with torch.no_grad():
        expected = model.model(ids).last_hidden_state
    np.testing.assert_allclose(got, expected.numpy(), atol=2e-5, rtol=0)


def test_a_masked_language_model_of_others_is_trained_further(data, tmp_path):
    """From the files of transformers 4 in PyTorch's own form, with the tied matrix."""
    directory = tmp_path / "theirs"
    model = saved(directory, "ModernBertForMaskedLM")
    (directory / "model.safetensors").unlink()
    torch.save(model.state_dict(), directory / "pytorch_model.bin")
    fields = to_config_json(ENCODER, "generator", special=SPECIAL, dtype="float32")
    (directory / "config.json").write_text(json.dumps(fields))
    recipe = "configs/modernbert.py:size=17m,objective=mlm"
    options = DEFAULT._replace(tokenizer=data / "tokenizer_corpus", recipe=recipe)
    notes = import_checkpoint(directory, tmp_path / "run", options)
    assert not any("newly initialised" in note for note in notes)
    run = load_run(tmp_path / "run")
    # The recipe is phase 1 of three, without a decay.
    assert any("of 256 rows, as in Microsoft's rtd.sh; schedule warmup_then_decay" in note for note in notes)
    num_steps = run.config["train"]["num_steps"]
    rate = make_schedule(run.config["optimizer"], num_steps)
    assert [float(rate(step)) for step in (0, 10_000, 55_000, num_steps)] == pytest.approx(
        [0.0, 4.5e-5, 2.25e-5, 0.0]
    )
    ids, (x, table, bias) = outputs_of(run, "generator")
    with torch.no_grad():
        expected = model(ids).logits
    np.testing.assert_allclose(x @ table.T + bias[None, None], expected.numpy(), atol=2e-5, rtol=0)


@pytest.mark.parametrize(
    ("loader", "num_labels"),
    [
        ("ModernBertForTokenClassification", 9),
        ("ModernBertForSequenceClassification", 1),
        ("ModernBertForMaskedLM", 2),
    ],
)
def test_heads_for_tasks_are_not_taken_for_a_detection_head(loader, num_labels, tmp_path):
    saved(tmp_path, loader, num_labels=num_labels)
    source = read_directory(tmp_path)
    tree = jax.tree.leaves_with_path(random_tree("discriminator"))
    shapes = {"/".join(key.key for key in path): leaf.shape for path, leaf in tree}
    found = from_file(source.family, "discriminator", source.arrays, shapes)
    assert found.missing == [path for path in shapes if path.startswith("head/")]
    assert "head.dense.weight" in found.unused


def test_wrappers_around_the_encoder_are_left_out(tmp_path):
    """Also one whose name ends like the encoder's prefix."""
    saved(tmp_path, "ModernBertModel")
    arrays = load_file(tmp_path / "model.safetensors")
    assert "layers.0.attn.Wqkv.weight" in arrays  # without the prefix
    for wrapper in ("0.auto_model.", "module.model.", "_orig_mod."):
        save_file({wrapper + name: array for name, array in arrays.items()}, tmp_path / "model.safetensors")
        names = read_directory(tmp_path).arrays
        assert {name.removeprefix("model.") for name in names} == set(arrays)


def test_only_modernberts_classes_can_pool_the_mean():
    description = {"task": {"kind": "classification"}, "labels": ["a", "b"]}
    description["config"] = {"model": {"head": "published", "pooling": "mean", "head_dropout": 0.1}}
    fields = task_config_json(ENCODER, description, special=SPECIAL, dtype="float32")
    assert (fields["classifier_pooling"], fields["classifier_dropout"]) == ("mean", 0.1)
    check_exportable(ENCODER, description)
    electra = make_pretraining_config(tiny_export.electra_model()).discriminator
    with pytest.raises(ValueError, match=r"config\.model\.pooling: got 'mean', expected 'cls'"):
        check_exportable(electra, description)
