"""Imports: our exports are restored exactly, and files of other projects are read."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file, save_file

from data_pipelines.mixture import DatasetSource, make_sequential
from data_pipelines.tokenizers.train import train_tokenizer
from electra_jax.conversion.export_run import export_run
from electra_jax.conversion.import_checkpoint import import_checkpoint
from electra_jax.huggingface.published_models import from_published, to_published
from electra_jax.huggingface.restore import read_source
from electra_jax.models.config import make_pretraining_config
from electra_jax.models.inputs import derive_inputs
from electra_jax.models.pretraining import MaskedLanguageModel, PretrainingModel
from electra_jax.objectives.registry import make_objective
from electra_jax.runs.trained import load_run
from electra_jax.training.metrics import summarize
from electra_jax.training.step import make_evaluation_step
from support import tiny_export
from support.import_options import DEFAULT
from support.jitted import apply_jitted
from support.paths import ROOT
from support.tiny import SPECIAL
from support.tiny_export import PLAIN, VARIANTS


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_export_import_export_gives_the_same_bytes(name, exports, data, tmp_path):
    model, _, options, folders = VARIANTS[name]
    directory, params = exports(name)
    notes = import_checkpoint(directory, tmp_path / "imported", DEFAULT)
    assert not any("not used" in note for note in notes), notes
    imported = load_run(tmp_path / "imported")
    assert imported.config["model"]["embedding_sharing"] == model["embedding_sharing"]
    # The first export was verified. Of two models the second one has the same bytes, all that were recorded.
    if len(folders) == 2:
        again = tiny_export.export_unverified(tmp_path / "imported", tmp_path / "again", options)
    else:
        again = export_run(tmp_path / "imported", None, tmp_path / "again", options)
    assert [path.name for path in again] == folders
    for path in directory.rglob("*"):
        # What was recorded depends on the generator, which is newly initialised if none was exported.
        is_comparable = path.suffix == ".safetensors" and (
            path.name != "verification.safetensors" or len(folders) == 2
        )
        if is_comparable or path.name in (
            "spm.model",
            "tokenizer.json",
            "tokenizer_config.json",
            "config.json",
        ):
            assert path.read_bytes() == (tmp_path / "again" / path.relative_to(directory)).read_bytes(), (
                path.name
            )
    if options.dtype == "float32" and len(folders) == 2:
        before, after = evaluate(imported.config, str(data / "corpus"), params, imported.params)
        assert before == after


def evaluate(config, corpus, *trees):
    """Metrics on the held-out rows of a dataset for each of several parameters, as training reports them."""
    objective = make_objective(config, make_pretraining_config(config["model"]), SPECIAL)
    step = jax.jit(make_evaluation_step(objective, seed=1, vocab_size=tiny_export.VOCAB))
    text = make_sequential([DatasetSource(corpus, split="validation")])
    rows = text.read(*text.rows_at(0, 8)).astype(np.int32)
    return [
        summarize(jax.device_get(step(jax.tree.map(np.asarray, params), jnp.asarray(rows), 0)))
        for params in trees
    ]


def test_the_delta_restores_the_table():
    """Every E_D that is a float32 sum is restored exactly from E_D − E_G, whatever the magnitudes."""
    config = make_pretraining_config(tiny_export.deberta_model())
    rng = np.random.default_rng(0)
    run = jax.tree.map(
        np.asarray,
        tiny_export.random_params(tiny_export.make_config(tiny_export.deberta_model(), ROOT, "deberta_v3")),
    )
    shape = run["generator_embeddings"]["word_embeddings"]["embedding"].shape
    scales = 10.0 ** rng.uniform(-6, 1, size=(2, *shape))
    base, delta = (scale * rng.normal(size=shape) for scale in scales)
    run["generator_embeddings"]["word_embeddings"]["embedding"] = base.astype(np.float32)
    run["discriminator_embeddings"]["word_embeddings"]["delta"] = delta.astype(np.float32)
    first = {role: model.params for role, model in to_published(run, config).items()}
    second = {
        role: model.params for role, model in to_published(from_published(first, config), config).items()
    }
    jax.tree.map(np.testing.assert_array_equal, first, second)
    assert not np.array_equal(
        first["discriminator"]["embeddings"]["word_embeddings"]["embedding"], base.astype(np.float32)
    )


def table_of(params):
    """Word embeddings [V, E]."""
    return np.asarray(params["embeddings"]["word_embeddings"]["embedding"])


def bert(tmp_path, **changes):
    """Save a tiny BERT of transformers."""
    torch.manual_seed(0)
    shape = {
        "vocab_size": tiny_export.VOCAB,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": tiny_export.LENGTH,
    }
    config = transformers.BertConfig(**shape | changes)
    model = transformers.BertForMaskedLM(config).eval()
    model.save_pretrained(tmp_path / "bert")
    return model


def states_of(run, ids):
    """Our encoder's last hidden states."""
    model = PretrainingModel(run.model)
    inputs = derive_inputs(jnp.asarray(ids), SPECIAL, run.model.discriminator.type_vocab_size)
    return apply_jitted(
        model,
        run.params,
        jnp.asarray(ids),
        inputs,
        method=lambda model, ids, inputs: model.discriminator(
            model.embeddings_of["discriminator"](ids, inputs, False), inputs, False
        ),
    )


@pytest.mark.parametrize("generator", ["first_layers", "fresh"])
def test_bert_becomes_a_discriminator_with_a_new_generator(generator, data, tmp_path):
    model = bert(tmp_path)
    notes = import_checkpoint(
        tmp_path / "bert",
        tmp_path / "run",
        DEFAULT._replace(
            tokenizer=data / "tokenizer_corpus", missing_generator=generator, recipe="configs/debug.py"
        ),
    )
    text = "\n".join(notes)
    assert (
        "discriminator: newly initialised (not in the file): head/dense/bias" in text
        and "cls.predictions.bias" in text
    )
    assert ("its first 1 layer" if generator == "first_layers" else "1 layer newly initialised") in text
    run = load_run(tmp_path / "run")
    ids = np.random.default_rng(0).integers(5, tiny_export.VOCAB, size=(2, 20)).astype(np.int32)
    with torch.no_grad():
        expected = model.bert(torch.from_numpy(ids.astype(np.int64))).last_hidden_state.numpy()
    np.testing.assert_allclose(states_of(run, ids), expected, atol=1e-5, rtol=0)
    first = (
        jax.tree.map(
            np.array_equal, run.params["generator"].get("layer_0"), run.params["discriminator"]["layer_0"]
        )
        if (generator == "first_layers")
        else None
    )
    assert generator == "fresh" or jax.tree.all(first)


def test_bert_continues_as_a_masked_language_model(data, tmp_path):
    model = bert(tmp_path)
    notes = import_checkpoint(
        tmp_path / "bert",
        tmp_path / "run",
        DEFAULT._replace(
            tokenizer=data / "tokenizer_corpus", recipe="configs/electra.py:size=base,objective=mlm"
        ),
    )
    assert not any("newly initialised" in note for note in notes)
    run = load_run(tmp_path / "run")
    # The recipe's 512 is more than the model's positions.
    assert run.config["data"]["sequence_length"] == tiny_export.LENGTH
    # And its 766,000 steps, 10,000 of them warm-up, are for training from scratch.
    train, optimizer = run.config["train"], run.config["optimizer"]
    assert (train["num_steps"], train["batch_size"]) == (100_000, 256)
    assert (optimizer["learning_rate"], optimizer["warmup_steps"]) == (5e-5, 10_000)
    assert any("5e-05, warming up for 10,000 of 100,000 steps of 256 rows" in note for note in notes)
    assert optimizer["schedule"] == "warmup_times_decay"  # the recipe's, which decays
    ids = np.random.default_rng(0).integers(5, tiny_export.VOCAB, size=(2, 20)).astype(np.int32)
    with torch.no_grad():
        expected = model(torch.from_numpy(ids.astype(np.int64))).logits.numpy()
    x, table, bias = apply_jitted(
        MaskedLanguageModel(run.model),
        run.params,
        jnp.asarray(ids),
        derive_inputs(jnp.asarray(ids), SPECIAL, 2),
        jnp.tile(jnp.arange(20)[None], (2, 1)),
        False,
        method="generate",
    )
    np.testing.assert_allclose(x @ table.T + bias[None, None], expected, atol=1e-5, rtol=0)


def test_a_generator_alone_and_wrong_files_are_errors(data, tmp_path):
    run, _ = tiny_export.make_run(tmp_path / "run", data, tiny_export.electra_model())
    tiny_export.export_unverified(run, tmp_path / "out")
    (tmp_path / "out" / "generator" / "training_config.json").unlink()
    for path, error, message in (
        (
            tmp_path / "out" / "generator",
            ValueError,
            "got generator for a recipe with objective 'electra', expected a",
        ),
        (
            data,
            FileNotFoundError,
            r"expected model\.safetensors, model\.safetensors\.index\.json or pytorch_model\.bin",
        ),
    ):
        with pytest.raises(error, match=message):
            import_checkpoint(path, tmp_path / "imported", DEFAULT)
        assert not (tmp_path / "imported").exists() and not list(tmp_path.glob(".imported*"))
    config = tmp_path / "out" / "discriminator" / "config.json"
    for changes, message in (
        ({"hidden_act": "relu"}, "got hidden_act='relu', expected 'gelu'"),
        ({"model_type": "roberta"}, "got model_type 'roberta', expected one of"),
        ({"embedding_size": None}, "embedding_size missing"),
        ({"intermediate_size": 99}, "expected one for encoder/layer_0/intermediate/(kernel|bias)"),
    ):
        original = config.read_text()
        fields = json.loads(original) | changes
        config.write_text(json.dumps({name: value for name, value in fields.items() if value is not None}))
        with pytest.raises(ValueError, match=message):
            import_checkpoint(tmp_path / "out", tmp_path / "imported", DEFAULT)
        config.write_text(original)


def microsoft(tmp_path, data):
    """Microsoft's own files of a GDES run, pickled: the delta as `_weight`, an old sum as `weight`. Returns
    the directory and the run's parameters."""
    run, params = tiny_export.make_run(
        tmp_path / "run", data, tiny_export.deberta_model(decoder=True), "deberta_v3"
    )
    tiny_export.export_unverified(run, tmp_path / "out", PLAIN._replace(inexact_generator=True))
    out = tmp_path / "microsoft"
    out.mkdir()
    for role, name in (("discriminator", "pytorch_model.bin"), ("generator", "pytorch_model.generator.bin")):
        files = (tmp_path / "out" / role).glob("[mre]*.safetensors")
        arrays = {key: value for path in files for key, value in load_file(path).items()}
        arrays = {
            key.replace(".transform", "").replace("cls.predictions", "lm_predictions.lm_head"): value
            for key, value in arrays.items()
        }
        if role == "discriminator":
            word = "deberta.embeddings.word_embeddings.weight"
            arrays[word.replace("weight", "_weight")] = params["discriminator_embeddings"]["word_embeddings"][
                "delta"
            ]
            arrays[word] = arrays[word] + 1.0
            arrays["deberta.embeddings.position_embeddings._weight"] = np.zeros(
                (tiny_export.LENGTH, 32), np.float32
            )
        torch.save({key: torch.from_numpy(np.array(value)) for key, value in arrays.items()}, out / name)
        config = "config.json" if role == "discriminator" else "generator_config.json"
        shutil.copy(tmp_path / "out" / role / "config.json", out / config)
    return out, params


def test_microsofts_own_files(data, tmp_path):
    out, params = microsoft(tmp_path, data)
    options = DEFAULT._replace(source_format="microsoft", tokenizer=data / "tokenizer_corpus")
    generator = out / "pytorch_model.generator.bin"
    notes = import_checkpoint(out, tmp_path / "both", options)
    assert "word embeddings: the generator's plus the delta" in notes
    assert any(f"arrays from {generator}" in note for note in notes)
    run = load_run(tmp_path / "both")
    assert (
        run.config["model"]["embedding_sharing"] == "gdes"
        and run.config["model"]["disentangled"]["enhanced_mask_decoder"]
    )
    expected, got = (
        {role: model.params for role, model in to_published(tree, run.model).items()}
        for tree in (params, run.params)
    )
    jax.tree.map(np.testing.assert_array_equal, expected, got)
    generator.rename(tmp_path / generator.name)
    notes = import_checkpoint(out, tmp_path / "alone", options)
    assert any("one update older" in note for note in notes)
    alone = to_published(load_run(tmp_path / "alone").params, run.model)["discriminator"].params
    np.testing.assert_allclose(table_of(alone), table_of(expected["discriminator"]) + 1.0, atol=1e-6)
    state = torch.load(out / "pytorch_model.bin")
    del state["deberta.embeddings.word_embeddings.weight"]
    torch.save(state, out / "pytorch_model.bin")
    with pytest.raises(
        ValueError, match=r"which are not in the file\. Give the generator's file with --generator"
    ):
        import_checkpoint(out, tmp_path / "delta", options)


def test_a_generator_in_the_same_directory_is_that_of_the_discriminator(data, tmp_path):
    out, _ = microsoft(tmp_path, data)
    generator = out / "pytorch_model.generator.bin"
    given = read_source(out, "microsoft", generator)
    for path in (out, out / "pytorch_model.bin"):
        found = read_source(path, "microsoft", None)
        assert found.models["generator"].path == generator
        for role, model in given.models.items():
            jax.tree.map(np.testing.assert_array_equal, model.arrays, found.models[role].arrays)
    assert list(read_source(generator, "microsoft", None).models) == ["generator"]
    save_file(
        {name: x.numpy() for name, x in torch.load(generator).items()}, generator.with_suffix(".safetensors")
    )
    generator.unlink()
    assert read_source(out, "microsoft", None).models["generator"].path.suffix == ".safetensors"
    # A masked language model takes the encoder of the discriminator, also where a generator lies beside it.
    recipe = "configs/deberta_v3.py:size=base,objective=mlm"
    options = DEFAULT._replace(source_format="microsoft", tokenizer=data / "tokenizer_corpus", recipe=recipe)
    notes = import_checkpoint(out, tmp_path / "mlm", options)
    assert any(note.startswith("generator: ") and note.endswith(f" arrays from {out}") for note in notes)


def test_a_new_generator_of_another_width_is_an_error_that_names_the_way(tmp_path):
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    theirs = transformers.DebertaV2Config(
        **shape,
        vocab_size=tiny_export.VOCAB,
        max_position_embeddings=tiny_export.LENGTH,
        relative_attention=True,
        share_att_key=True,
        norm_rel_ebd="layer_norm",
        pos_att_type="p2c|c2p",
        position_buckets=8,
    )
    transformers.DebertaV2Model(theirs).save_pretrained(tmp_path / "deberta")
    options = DEFAULT._replace(missing_generator="fresh")
    message = (
        r"deberta: got --missing_generator=fresh and a model of width 32, but the generator of "
        r"configs/deberta_v3\.py:size=base has width 768, .* --config=configs/deberta_v3\.py:size=…, or "
        "--missing_generator=first_layers"
    )
    with pytest.raises(ValueError, match=message):
        import_checkpoint(tmp_path / "deberta", tmp_path / "run", options)


class Opens:
    """Opens a file when it is unpickled, as a hostile checkpoint could."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_code_in_a_pytorch_file_is_not_run(data, tmp_path):
    bert(tmp_path)
    (tmp_path / "bert" / "model.safetensors").unlink()
    torch.save({"bert.embeddings": Opens(tmp_path / "opened")}, tmp_path / "bert" / "pytorch_model.bin")
    with pytest.raises(ValueError, match="can be read without running code in it"):
        import_checkpoint(
            tmp_path / "bert", tmp_path / "run", DEFAULT._replace(tokenizer=data / "tokenizer_corpus")
        )
    assert not (tmp_path / "opened").exists()


def test_a_new_vocabulary_keeps_the_rows_of_pieces_spelled_the_same(data, tmp_path):
    run, params = tiny_export.make_run(tmp_path / "run", data, tiny_export.electra_model())
    tiny_export.export_unverified(run, tmp_path / "out")
    text = (data / "train.txt").read_text().replace("s", "z").replace("th", "xy")
    train_tokenizer([text], str(tmp_path / "other"), vocab_size=110)
    notes = import_checkpoint(
        tmp_path / "out", tmp_path / "new", DEFAULT._replace(new_tokenizer=tmp_path / "other")
    )
    new, old = load_run(tmp_path / "new"), load_run(tmp_path / "run")
    places = {piece: row for row, piece in enumerate(old.tokenizer.vocabulary())}
    shared = [(row, places[piece]) for row, piece in enumerate(new.tokenizer.vocabulary()) if piece in places]
    assert 20 < len(shared) < new.tokenizer.num_pieces
    assert f"{len(shared):,} of {new.tokenizer.num_pieces:,} pieces keep their rows" in "\n".join(notes)
    new_table, old_table = table_of(new.params), table_of(params)
    assert new.config["model"]["vocab_size"] == new.tokenizer.vocab_size == len(new_table)
    for row, old_row in shared:
        np.testing.assert_array_equal(new_table[row], old_table[old_row])
    added = {
        piece: row
        for row, piece in enumerate(new.tokenizer.vocabulary())
        if len(piece) > 1 and piece not in places
    }
    words = {row: piece.removeprefix("▁") for piece, row in added.items() if piece.startswith("▁")}
    unknown, num_compared = old.tokenizer.special.unk, 0
    for row, ids in zip(words, old.tokenizer.encode_batch([*words.values()]), strict=True):
        if known := [i for i in ids if i != unknown]:
            np.testing.assert_allclose(new_table[row], old_table[known].mean(0), rtol=1e-5, atol=1e-7)
            num_compared += 1
    assert num_compared > 3


def test_a_tokenizer_of_another_model_is_refused(data, tmp_path):
    bert(tmp_path, vocab_size=tiny_export.VOCAB - 20)
    with pytest.raises(
        ValueError, match=r"the tokenizer has 1\d\d entries, but the model has embeddings for 108"
    ):
        import_checkpoint(
            tmp_path / "bert", tmp_path / "run", DEFAULT._replace(tokenizer=data / "tokenizer_corpus")
        )
    assert not (tmp_path / "run").exists()


def test_sharded_safetensors_are_read(data, tmp_path):
    bert(tmp_path)
    whole = tmp_path / "bert" / "model.safetensors"
    arrays = load_file(whole)
    names = sorted(arrays)
    parts = {"model-00001-of-00002.safetensors": names[:10], "model-00002-of-00002.safetensors": names[10:]}
    options = DEFAULT._replace(tokenizer=data / "tokenizer_corpus", recipe="configs/debug.py")
    import_checkpoint(tmp_path / "bert", tmp_path / "one", options)
    for part, chosen in parts.items():
        save_file({name: arrays[name] for name in chosen}, tmp_path / "bert" / part)
    (tmp_path / "bert" / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {name: part for part, chosen in parts.items() for name in chosen}})
    )
    whole.unlink()
    import_checkpoint(tmp_path / "bert", tmp_path / "two", options)
    jax.tree.map(
        np.testing.assert_array_equal, load_run(tmp_path / "one").params, load_run(tmp_path / "two").params
    )
