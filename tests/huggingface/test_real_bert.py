"""A real BERT checkpoint: import, its own WordPiece vocabulary, continued training, and export."""

import json
import pydoc_data.topics

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers
import torch
import transformers
from safetensors.numpy import load_file

from data_pipelines.corpus_builder import build_corpus
from data_pipelines.corpus_settings import CorpusSettings
from data_pipelines.tokenizers.add_words import add_words
from electra_jax.configuration.flags import load_config
from electra_jax.conversion.export_run import export_run
from electra_jax.conversion.import_checkpoint import import_checkpoint
from electra_jax.distributed.mesh import make_mesh
from electra_jax.models.inputs import SpecialTokens, derive_inputs
from electra_jax.models.pretraining import PretrainingModel
from electra_jax.runs import inputs as run_inputs
from electra_jax.runs.pretraining import pretrain
from electra_jax.runs.trained import load_run
from support import real_vocabulary
from support.import_options import DEFAULT
from support.tiny_export import PLAIN

TEXT = [
    line.strip()
    for topic in pydoc_data.topics.topics.values()
    for line in topic.split("\n\n")
    if len(line) > 200
]


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    """(directory of the checkpoint, the imported run, the notes of the import)."""
    root = tmp_path_factory.mktemp("bert")
    source = real_vocabulary.extract(root / "bert", (*real_vocabulary.FILES, *real_vocabulary.MODEL_FILES))
    notes = import_checkpoint(source, root / "run", DEFAULT)
    return source, root / "run", notes


@pytest.mark.slow
def test_real_weights_give_the_hidden_states_of_transformers_on_real_text(imported):
    source, run, notes = imported
    assert (
        "generator: not in the files; made of the discriminator's embeddings, its first 3 layers, and a new "
        "head" in notes
    )
    loaded = load_run(run)
    tokenizer = transformers.AutoTokenizer.from_pretrained(source)
    tokens = tokenizer(
        TEXT[:8], TEXT[8:16], padding=True, truncation=True, max_length=256, return_tensors="pt"
    )
    model = transformers.BertModel.from_pretrained(source).eval()
    with torch.no_grad():
        expected = model(**tokens).last_hidden_state.numpy()
    ids = jnp.asarray(tokens["input_ids"].numpy().astype(np.int32))
    special = SpecialTokens.from_ids(loaded.tokenizer.special)
    inputs = derive_inputs(ids, special, 2)
    np.testing.assert_array_equal(inputs.token_types_BL, tokens["token_type_ids"])
    assert set(np.unique(inputs.token_types_BL)) == {0, 1}
    states = PretrainingModel(loaded.model).apply(
        {"params": loaded.params},
        ids,
        inputs,
        method=lambda model, ids, inputs: model.discriminator(
            model.embeddings(ids, inputs, False), inputs, False
        ),
    )
    real = tokens["attention_mask"].numpy().astype(bool)
    np.testing.assert_allclose(np.asarray(states)[real], expected[real], atol=1e-5, rtol=0)


@pytest.mark.slow
def test_words_of_a_domain_start_at_the_mean_of_their_pieces(imported, tmp_path):
    source, _, _ = imported
    new_tokenizer = tmp_path / "domain"
    added = add_words(str(source), str(new_tokenizer), TEXT, max_words=50, max_chars=10**6, lowercase=None)
    notes = import_checkpoint(source, tmp_path / "run", DEFAULT._replace(new_tokenizer=new_tokenizer))
    assert any("30,522 of 30,572 pieces keep their rows" in note for note in notes)
    before = load_file(source / "model.safetensors")["embeddings.word_embeddings.weight"]
    params = load_run(tmp_path / "run").params
    after = np.asarray(params["embeddings"]["word_embeddings"]["embedding"])
    np.testing.assert_array_equal(after[: len(before)], before)
    library = tokenizers.Tokenizer.from_file(str(source / "tokenizer.json"))
    library.no_padding()
    for row, word in enumerate(added.words, len(before)):
        pieces = library.encode(word, add_special_tokens=False).ids
        assert len(pieces) >= 3
        np.testing.assert_allclose(after[row], before[pieces].mean(0), atol=1e-6)


@pytest.mark.slow
def test_training_continues_in_its_vocabulary_and_the_result_is_exported(imported, tmp_path, monkeypatch):
    _, run, _ = imported
    one = make_mesh({"data": 1, "fsdp": 1, "tensor": 1}, jax.devices()[:1])
    # Eight devices on two cores would wait for each other.
    monkeypatch.setattr(run_inputs, "make_mesh", lambda _: one)
    (tmp_path / "text.txt").write_text("\n\n".join(TEXT), encoding="utf-8")
    settings = CorpusSettings(
        train=[str(tmp_path / "text.txt")],
        validation_fraction=0.1,
        sequence_length=64,
        tokenizer=str(run / "tokenizer"),
        packing="documents",
    )
    build_corpus(str(tmp_path / "corpus"), settings)
    config = load_config(f"configs/continued.py:run={run}").to_dict()
    config["data"] |= {"datasets": (str(tmp_path / "corpus"),), "sequence_length": 64}
    config["train"] |= {"num_steps": 2, "batch_size": 8}
    config["optimizer"]["warmup_steps"] = 1
    config["eval"] |= {"batch_size": 8, "max_batches": 1}
    config["log"] |= {"every": 1, "progress": False}
    summary = pretrain(config, tmp_path / "continued")
    assert summary["steps"] == 2 and np.isfinite(summary["heldout_rtd_loss"])
    discriminator, generator = export_run(tmp_path / "continued", None, tmp_path / "out", PLAIN)
    # The export has the vocabulary of the import.
    tokenizer = transformers.AutoTokenizer.from_pretrained(discriminator)
    assert tokenizer("replaced [MASK] detection")["input_ids"] == [101, 2999, 103, 10788, 102]
    assert (discriminator / "vocab.txt").read_text().split("\n")[103] == "[MASK]"
    fill = transformers.pipeline("fill-mask", model=str(generator), tokenizer=str(generator))
    assert len(fill("the [MASK] of a statement")) == 5
    card = (discriminator / "README.md").read_text()
    session = json.loads((tmp_path / "continued" / "sessions.jsonl").read_text())
    assert "2 steps of 8 rows of 64 tokens" in card and "text.txt" in card and session["devices"] in card
    assert (
        f"Pre-training continued from {run.name}, with" in card
        and str(run) not in card
        and f"{summary['heldout_rtd_auc']:.4f}" in card
    )
