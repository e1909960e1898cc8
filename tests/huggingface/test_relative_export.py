"""The code that travels with a model that has a relative bias, and the modules that are not exported."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from data_pipelines.json_files import write_json
from electra_jax.conversion.import_checkpoint import import_checkpoint
from electra_jax.huggingface.configuration import RELATIVE_BIAS_TASKS, from_config_json, to_config_json
from electra_jax.huggingface.custom_code import modeling_electra_relative_bias as code
from electra_jax.huggingface.export import CONFIG_FILE, TRAINING_FILE, WEIGHTS_FILE
from electra_jax.huggingface.names import ELECTRA, to_file
from electra_jax.huggingface.published_models import ROLES, PublishedModule, to_published
from electra_jax.huggingface.tokenizer import write_tokenizer
from electra_jax.models.config import RelativeBiasConfig, make_encoder_config, make_pretraining_config
from electra_jax.models.inputs import derive_inputs
from electra_jax.models.relative_bias import RelativeBias, bucket_edges
from electra_jax.objectives.mcl import HEADS
from electra_jax.runs.trained import load_run
from electra_jax.training.state import unbox
from support import tiny_export
from support.import_options import DEFAULT
from support.tiny import SPECIAL

FROM_FILE = {"enhanced_mask_decoder": False, "dtype": "float32"}


def torch_config(encoder):
    """The exported configuration, as an object of the custom class."""
    fields = to_config_json(encoder, "discriminator", special=SPECIAL, dtype="float32")
    return code.ElectraRelativeBiasConfig(
        **{name: value for name, value in fields.items() if name != "model_type"}
    )


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 70), st.integers(0, 400))
def test_both_have_the_same_buckets(half, beyond):
    config = RelativeBiasConfig(
        num_buckets=2 * half, max_distance=half // 2 + 2 + beyond, position_biased_input=True
    )
    assert tuple(code.bucket_edges(config.num_buckets, config.max_distance)) == bucket_edges(config)


@pytest.mark.parametrize("length", [1, 5, 40])
def test_both_have_the_same_bias(length):
    encoder = make_pretraining_config(tiny_export.relative_model()).discriminator
    theirs = code.RelativeBiasEncoder(torch_config(encoder)).eval()
    table = theirs.relative_bias.weight.detach().numpy()
    ours = RelativeBias(encoder).apply({"params": {"embedding": table}}, length)
    np.testing.assert_array_equal(theirs.bias(length)[0].detach().numpy(), ours)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_every_form_of_mask_gets_the_bias(attention):
    torch.manual_seed(0)
    config = torch_config(make_pretraining_config(tiny_export.relative_model()).discriminator)
    config._attn_implementation = attention
    encoder = code.RelativeBiasEncoder(config).eval()
    torch.nn.init.normal_(encoder.relative_bias.weight)
    x, seen = torch.randn(2, 9, config.hidden_size), torch.ones(2, 1, 9, 9, dtype=torch.bool)
    masks = (None, seen, torch.zeros(2, 1, 9, 9))
    with torch.no_grad():
        same = [encoder(x, mask).last_hidden_state for mask in masks]
        seen[:, :, :, 6:] = False
        added = torch.zeros(2, 1, 9, 9).masked_fill(~seen, torch.finfo(torch.float32).min)
        cut = [encoder(x, mask).last_hidden_state[:, :6] for mask in (seen, added)]
        cut.append(encoder(x[:, :6]).last_hidden_state)
        encoder.relative_bias.weight.zero_()
        without = encoder(x).last_hidden_state
    for states in (same, cut):
        for other in states[1:]:
            torch.testing.assert_close(states[0], other, atol=1e-5, rtol=0)
    assert (same[0] - without).abs().max() > 0.1


def test_every_class_of_auto_map_exists_and_the_configuration_is_restored():
    for positions in (True, False):
        encoder = make_pretraining_config(tiny_export.relative_model(positions=positions)).discriminator
        fields = json.loads(
            json.dumps(to_config_json(encoder, "discriminator", special=SPECIAL, dtype="float32"))
        )
        assert len(fields["auto_map"]) == 2 + len(RELATIVE_BIAS_TASKS)
        for auto, place in fields["auto_map"].items():
            module, _, name = place.partition(".")
            assert module == code.__name__.rpartition(".")[2] and hasattr(code, name), auto
        assert make_encoder_config(from_config_json(fields, **FROM_FILE)) == encoder
        assert fields["model_type"] == code.ElectraRelativeBiasConfig.model_type
        del fields["position_biased_input"]
        with pytest.raises(ValueError, match="position_biased_input missing"):
            from_config_json(fields, **FROM_FILE)


def write_export(out, data):
    """Write what an import reads of an exported run with objective "mcl", with random arrays; returns role →
    parameters."""
    section = tiny_export.relative_model(type_vocab_size=0, embedding_sharing="none")
    config, draw = make_pretraining_config(section), np.random.default_rng(0).normal
    ids = jnp.ones((1, 4), jnp.int32)
    trees = {}
    for role in ROLES:
        encoder, directory = getattr(config, role), out / role
        directory.mkdir(parents=True)
        init = lambda model: model.init(jax.random.key(0), ids, derive_inputs(ids, SPECIAL, 0))["params"]
        shapes = unbox(jax.eval_shape(functools.partial(init, PublishedModule(encoder, role))))
        trees[role] = jax.tree.map(lambda leaf: draw(size=leaf.shape).astype(np.float32), shapes)
        save_file(to_file(ELECTRA, role, trees[role]), directory / WEIGHTS_FILE)
        write_json(directory / CONFIG_FILE, to_config_json(encoder, role, special=SPECIAL, dtype="float32"))
        write_json(directory / TRAINING_FILE, {"config": tiny_export.make_config(section, data, "mcl")})
        write_tokenizer(data / "tokenizer_corpus", directory, model_max_length=32)
    return trees


def test_an_import_reads_the_encoders_and_initialises_the_heads_of_courses(data, tmp_path):
    trees = write_export(tmp_path / "out", data)
    notes = import_checkpoint(tmp_path / "out", tmp_path / "imported", DEFAULT)
    assert all(f"{name}: newly initialised (exports do not contain it)" in notes for name in HEADS)
    assert not any("not used" in note for note in notes)
    run = load_run(tmp_path / "imported")
    assert run.config["model"]["relative_bias"] == tiny_export.relative_model()["relative_bias"]
    # A leaf that the checkpoint lacks would stay abstract.
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(run.params))
    assert set(HEADS) < set(run.params)
    again = to_published(jax.device_get(run.params), run.model)  # without those heads
    for role in ROLES:
        jax.tree.map(np.testing.assert_array_equal, again[role].params, trees[role])


def test_an_unknown_module_is_refused():
    config = make_pretraining_config(tiny_export.relative_model())
    with pytest.raises(
        ValueError, match=r"got the modules \['other_predictions'\], which no published model has"
    ):
        to_published(
            {
                "other_predictions": {},
                "discriminator_swap_predictions": {},
                "discriminator_insert_predictions": {},
            },
            config,
        )
