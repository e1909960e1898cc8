"""Masked language models whose output layer is not the table of word embeddings, which our heads are."""

import json

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from electra_jax.conversion.import_checkpoint import import_checkpoint
from electra_jax.prediction.models import load, load_pretrained
from electra_jax.runs.trained import load_run
from support.import_options import DEFAULT

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "film", "was", "good", "bad", "."]
SHAPE = {
    "vocab_size": len(PIECES),
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 32,
}
DEBERTA = {
    "relative_attention": True,
    "position_buckets": 8,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "pos_att_type": ["p2c", "c2p"],
    "type_vocab_size": 0,
}
MLM = {
    "Bert": "configs/electra.py:size=base,objective=mlm",
    "Electra": "configs/electra.py:size=base,objective=mlm",
    "DebertaV2": "configs/deberta_v3.py:size=base,objective=mlm",
}
UNTIED = r"got tie_word_embeddings=False in its config\.json, expected True: our head for masks has no"


def save(directory, name):
    """A tiny model of transformers with an output layer of its own, and a tokenizer."""
    torch.manual_seed(0)
    family = name.partition("For")[0]
    own = {"Bert": {}, "Electra": {"embedding_size": 16}, "DebertaV2": DEBERTA}[family]
    config = getattr(transformers, f"{family}Config")(**SHAPE | own, tie_word_embeddings=False)
    getattr(transformers, name)(config).save_pretrained(directory)
    (directory / "vocab.txt").write_text("\n".join(PIECES) + "\n")
    tokenizer = {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": 32}
    (directory / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    # transformers 5 saves the bias of an untied head under another name than all other releases.
    arrays = load_file(directory / "model.safetensors")
    bias = arrays.get("cls.predictions.decoder.bias")
    if bias is not None:
        arrays["cls.predictions.bias"] = bias.clone()
        save_file(arrays, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


@pytest.mark.parametrize("family", MLM)
def test_an_output_layer_of_its_own_is_not_replaced_by_the_word_embeddings(family, tmp_path):
    model = save(tmp_path / "model", f"{family}ForMaskedLM")
    for loads in (lambda: load(str(model), None), lambda: load_pretrained("--run", str(model))):
        with pytest.raises(ValueError, match=f"^{model}: {UNTIED}"):
            loads()
    with pytest.raises(ValueError, match=f"^{model}: {UNTIED}"):
        import_checkpoint(model, tmp_path / "run", DEFAULT._replace(recipe=MLM[family]))
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_model_that_does_not_fill_in_masks_has_no_output_layer(tmp_path):
    model = save(tmp_path / "electra", "ElectraForPreTraining")
    assert load(str(model), None).discriminator is not None
    bert = save(tmp_path / "bert", "BertForMaskedLM")  # becomes a discriminator, without its head
    import_checkpoint(bert, tmp_path / "run", DEFAULT._replace(recipe="configs/debug.py"))
    assert load_run(tmp_path / "run").config["model"]["vocab_size"] == len(PIECES)
