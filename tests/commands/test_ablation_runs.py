"""Run directories of ELECTRA's ablations: initial runs, exports, imports, and runs of older versions."""

import contextlib
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

from configs import continued
from data_pipelines.tokenizers.load import load_tokenizer
from electra_jax.configuration.migration import DEFAULTS_OF_LATER_KEYS
from electra_jax.conversion.export_run import export_run
from electra_jax.conversion.import_checkpoint import import_checkpoint
from electra_jax.distributed.mesh import make_mesh
from electra_jax.distributed.sharding import replicated
from electra_jax.finetuning.encoders import encoder_of_run
from electra_jax.huggingface.published_models import to_published
from electra_jax.huggingface.restore import plain_objective
from electra_jax.models.ablations import TokenModel, TwoTowerModel
from electra_jax.models.config import make_pretraining_config
from electra_jax.models.inputs import derive_inputs
from electra_jax.models.word_set_model import WORD_SET_HEAD
from electra_jax.objectives.registry import OBJECTIVES, make_objective
from electra_jax.runs.directory import check_run_directory, is_measured
from electra_jax.runs.pretraining import pretrain
from electra_jax.runs.summary import summarize_run
from electra_jax.runs.trained import check_initial, initial_params, load_run, read_description
from electra_jax.training.checkpointing import Checkpointer, with_shardings
from electra_jax.training.state import abstract_params
from support import tiny_export
from support.import_options import DEFAULT
from support.jitted import apply_jitted
from support.tiny import SPECIAL
from support.tiny_ablations import random_params
from support.tiny_export import PLAIN, WIDE, electra_model

ONE = electra_model()
TWO = electra_model(embedding_sharing="none", embedding_size=32, generator=WIDE, discriminator=WIDE)


def config_of(data, name, generator="model", model=ONE):
    """A whole configuration."""
    config = tiny_export.make_config(model, data, name)
    config["objective"] |= {"generator": generator, "vocab_chunk_size": 50}
    return config


def objective_of(config):
    return make_objective(config, make_pretraining_config(config["model"]), SPECIAL)


def run_of(directory, data, name, generator="model", model=ONE):
    """(run directory at step 0, its parameters) of an objective; nothing is compiled for it."""
    config = config_of(data, name, generator, model)
    params = random_params(objective_of(config), tiny_export.LENGTH)
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps({"config": config, "data": []}))
    shutil.copytree(data / "tokenizer_corpus", directory / "tokenizer")
    with contextlib.closing(Checkpointer(str(directory / "checkpoints"), keep=1)) as checkpointer:
        checkpointer.save_params(params, {})
    return directory, jax.tree.map(np.asarray, params)


def test_both_encoders_of_the_second_stage_start_from_the_first(data, tmp_path):
    first, trained = run_of(
        tmp_path / "first",
        data,
        "mlm",
        model=TWO
        | {
            "embedding_sharing": "tied",
            "generator": {"hidden_size": 8, "num_layers": 1, "num_heads": 1, "intermediate_size": 32},
        },
    )  # plain MLM has no generator of another shape
    config = config_of(data, "two_stage", model=TWO)
    fingerprint = load_run(first).tokenizer.fingerprint
    check_initial(str(first), config, fingerprint)
    shapes, _ = abstract_params(objective_of(config), tiny_export.LENGTH)
    everywhere = replicated(make_mesh({"data": 1, "fsdp": 1, "tensor": 1}, jax.devices()[:1]))
    abstract = with_shardings(shapes, jax.tree.map(lambda _: everywhere, shapes))
    fresh = jax.tree.map(lambda leaf: jnp.full(leaf.shape, 9.0), abstract)
    step, params = initial_params(str(first), fresh, abstract)
    assert step == 0 and jax.tree.structure(params) == jax.tree.structure(abstract)
    sources = {
        "generator_embeddings": "embeddings",
        "discriminator_embeddings": "embeddings",
        "generator": "generator",
        "discriminator": "generator",
        "generator_predictions": "generator_predictions",
    }
    for name, source in sources.items():
        jax.tree.map(np.testing.assert_array_equal, params[name], trained[source])
    assert all((leaf == 9.0).all() for leaf in jax.tree.leaves(params["discriminator_predictions"]))
    buffers = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(params)]
    assert len(set(buffers)) == len(buffers)  # a step donates its arrays
    with pytest.raises(
        ValueError,
        match=r"holds another model:\n  config\.model\.discriminator\.num_layers: that run has 2, this .* 3",
    ):
        wider = config | {"model": TWO | {"discriminator": WIDE | {"num_layers": 3}}}
        check_initial(str(first), wider, fingerprint)
    with pytest.raises(ValueError, match="was trained with objective 'mlm', this run has 'electra'"):
        check_initial(str(first), config_of(data, "electra", model=TWO), fingerprint)
    with pytest.raises(ValueError, match=r"config\.checkpoint\.init_from: got '', expected .*'two_stage'"):
        pretrain(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["mlm", "prop"])
def test_prop_starts_from_masked_language_modelling_with_a_new_head(name, data, tmp_path):
    # An imported BERT has its own shape there. Neither objective has a generator of another shape.
    unused = {"generator": ONE["discriminator"], "embedding_sharing": "none"}
    first, trained = run_of(tmp_path / "first", data, name, model=ONE | unused)
    config = config_of(data, "prop")
    check_initial(str(first), config, load_run(first).tokenizer.fingerprint)
    shapes, _ = abstract_params(objective_of(config), tiny_export.LENGTH)
    everywhere = replicated(make_mesh({"data": 1, "fsdp": 1, "tensor": 1}, jax.devices()[:1]))
    abstract = with_shardings(shapes, jax.tree.map(lambda _: everywhere, shapes))
    fresh = jax.tree.map(lambda leaf: jnp.full(leaf.shape, 9.0), abstract)
    _, params = initial_params(str(first), fresh, abstract)
    head = params.pop(WORD_SET_HEAD)
    jax.tree.map(np.testing.assert_array_equal, head, trained.pop(WORD_SET_HEAD, fresh[WORD_SET_HEAD]))
    jax.tree.map(np.testing.assert_array_equal, params, trained)


def test_an_initial_run_with_other_parameters_is_refused(data, tmp_path):
    initial, _ = run_of(tmp_path / "run", data, "electra", "unigram")
    fingerprint = load_run(initial).tokenizer.fingerprint
    check_initial(str(initial), config_of(data, "electra_15", "uniform"), fingerprint)
    for name in ("electra", "adversarial"):
        with pytest.raises(
            ValueError,
            match=f"objective 'electra' with generator 'unigram', this run has '{name}': their parameters",
        ):
            check_initial(str(initial), config_of(data, name), fingerprint)
    check_initial("", config_of(data, "electra"), fingerprint)


@pytest.mark.parametrize(
    ("name", "generator", "roles", "encoder"),
    [
        ("electra_15", "model", ["discriminator", "generator"], "discriminator"),
        ("two_stage", "model", ["discriminator", "generator"], "discriminator"),
        ("adversarial", "model", ["discriminator", "generator"], "discriminator"),
        ("electric", "model", ["discriminator"], "discriminator"),
        ("electra", "uniform", ["discriminator"], "discriminator"),
        ("fast_electra", "model", ["discriminator"], "discriminator"),
        ("prop", "model", ["generator"], "generator"),
        ("replace_mlm", "model", ["generator"], "discriminator"),
        ("all_tokens_mlm", "model", ["generator"], "discriminator"),
    ],
)
def test_the_trained_encoder_is_what_is_published_and_fine_tuned(name, generator, roles, encoder, data):
    config = config_of(data, name, generator, TWO if name == "two_stage" else ONE)
    model = make_pretraining_config(config["model"])
    params, _ = abstract_params(objective_of(config), tiny_export.LENGTH)
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), params)
    models = to_published(params, model)
    assert list(models) == roles
    assert (
        models[roles[0]].config == model.discriminator
        and models[roles[0]].params["encoder"] is params[encoder]
    )
    tokenizer = load_tokenizer(str(data / "tokenizer_corpus"))
    initial = encoder_of_run(name, params, model, tokenizer)
    assert initial.config == model.discriminator
    assert jax.tree.structure(initial.params["encoder"]) == jax.tree.structure(params[encoder])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "role", "left_out"),
    [
        ("all_tokens_mlm", "generator", "the gate that copies input tokens"),
        ("electric", "discriminator", "the two-tower noise model"),
    ],
)
def test_exports_are_computed_by_transformers(name, role, left_out, data, tmp_path, capsys):
    run, params = run_of(tmp_path / "run", data, name)
    assert export_run(run, None, tmp_path / "out", PLAIN) == [tmp_path / "out" / role]
    assert (
        f"Not exported: {'the small generator, and ' if role == 'generator' else ''}{left_out}"
        in capsys.readouterr().out
    )
    # Compared with the training model.
    model = make_pretraining_config(ONE)
    ids = np.random.default_rng(0).integers(5, tiny_export.VOCAB, size=(2, 16)).astype(np.int32)
    ids[:, 0], ids[:, -1] = SPECIAL.cls, SPECIAL.sep
    inputs = derive_inputs(jnp.asarray(ids), SPECIAL, 2)
    torch_ids = torch.from_numpy(ids.astype(np.int64))
    if role == "generator":
        logits, _ = apply_jitted(
            TokenModel(model, True), params, ids, inputs, None, False, method="predict_tokens"
        )
        expected = logits.x_BPE @ logits.table_VE.T + logits.bias_V[None, None]
        got = transformers.ElectraForMaskedLM.from_pretrained(tmp_path / "out" / role)(torch_ids).logits
    else:
        expected = apply_jitted(TwoTowerModel(model), params, ids, inputs, False, method="discriminate")
        got = transformers.ElectraForPreTraining.from_pretrained(tmp_path / "out" / role)(torch_ids).logits
    np.testing.assert_allclose(got.detach().numpy(), expected, atol=1e-5)
    card = (tmp_path / "out" / role / "README.md").read_text()
    assert "**" in card and "to fine-tune" in card.replace("to be fine-tuned", "to fine-tune")
    assert "fill-mask" not in card and "fills in masks" not in card
    if name == "electric":
        notes = import_checkpoint(tmp_path / "out", tmp_path / "imported", DEFAULT)
        assert "objective.name: 'electra' instead of 'electric', which is not exported completely" in notes
        imported = load_run(tmp_path / "imported")
        assert imported.config["objective"]["name"] == "electra"
        jax.tree.map(np.testing.assert_array_equal, imported.params["discriminator"], params["discriminator"])


@pytest.mark.parametrize(
    ("name", "generator", "plain"),
    [
        ("all_tokens_mlm", "model", "mlm"),
        ("replace_mlm", "model", "mlm"),
        ("prop", "model", "mlm"),
        ("adversarial", "model", "electra"),
        ("electra_15", "unigram", "electra_15"),
        ("fast_electra", "model", "electra"),
        ("electra", "model", "electra"),
        ("two_stage", "model", "two_stage"),
    ],
)
def test_training_continues_with_an_objective_whose_modules_are_all_exported(name, generator, plain):
    section, notes = plain_objective({"name": name, "generator": generator, "mask_prob": 0.15})
    settings = OBJECTIVES[plain].settings
    assert section == {"name": plain, "generator": "model", "mask_prob": 0.15, **settings}
    assert len(notes) == (name != plain) + (generator != "model")


def test_runs_made_before_there_were_ablations_resume(data, tmp_path):
    run, _ = run_of(tmp_path / "run", data, "electra")
    new = json.loads((run / "config.json").read_text())
    old = json.loads(json.dumps(new))
    for key in sorted(DEFAULTS_OF_LATER_KEYS, reverse=True):  # the keys of a section before the section
        section, _, name = key.rpartition(".")
        del (old["config"][section] if section else old["config"])[name]
    (run / "config.json").write_text(json.dumps(old))
    assert read_description(run)["config"] == new["config"] and load_run(run).step == 0
    check_run_directory(run, new)
    other = new["config"] | {"objective": new["config"]["objective"] | {"generator": "unigram"}}
    with pytest.raises(
        ValueError, match=r"config\.objective\.generator: the run has 'model', you gave 'unigram'"
    ):
        check_run_directory(run, new | {"config": other})
    assert continued.get_config(f"run={run}").objective.generator == "model"


def test_a_run_without_a_generator_is_complete_when_it_was_evaluated(tmp_path):
    rows = [
        {"step": 4, "loss": 1.0, "tokens_per_second": 2.0},
        {"step": 4, "eval/rtd_loss": 0.5, "eval/tokens": 9.0},
    ]
    (tmp_path / "metrics.jsonl").write_text(json.dumps(rows[0]) + "\n")
    assert not is_measured(tmp_path, 4, has_probe=False)
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert is_measured(tmp_path, 4, has_probe=False) and not is_measured(tmp_path, 4, has_probe=True)
    assert summarize_run(tmp_path) == {
        "steps": 4,
        "tokens_per_second": 2.0,
        "alarms": 0,
        "heldout_rtd_loss": 0.5,
        "heldout_tokens": 9.0,
    }
