"""A tagger with a byte-level vocabulary: its export reads words as it was trained to, and says how."""

import jax
import numpy as np
import pytest
import transformers

from data_pipelines.tasks.encoding import encode_examples
from data_pipelines.tasks.load import TaggedExample
from electra_jax.conversion.export_task import export_task
from electra_jax.finetuning.model_files import save_model
from electra_jax.finetuning.models import TaskModel
from electra_jax.huggingface.card_parts import Publication
from electra_jax.huggingface.export import CARD_FILE
from electra_jax.huggingface.task_checks import check_words
from electra_jax.models.config import make_pretraining_config
from electra_jax.models.inputs import SpecialTokens
from electra_jax.training.state import unbox
from support import tiny_export
from support.byte_level import make_byte_level


def make_model(directory, tokenizer, **more):
    encoder = make_pretraining_config(
        tiny_export.electra_model() | {"vocab_size": tokenizer.vocab_size}
    ).discriminator
    model = TaskModel(encoder, SpecialTokens.from_ids(tokenizer.special), "tagging", 2, "published", 0.1)
    params = unbox(model.init(jax.random.key(0), np.ones((1, 8), np.int32), False)["params"])
    task = {"kind": "tagging", "source": "", "train": "train.conll", "label_scale": 1.0, "max_length": 64}
    config = {
        "task": task,
        "model": {"head": "published", "head_dropout": 0.1, "hidden_dropout": 0.1},
        "optimizer": {"learning_rate": 1e-4, "layer_decay": 0.8},
        "train": {"num_epochs": 1, "batch_size": 4},
    }
    description = {
        "task": task,
        "labels": ["NOUN", "VERB"],
        "config": config,
        "start": "base",
        "seed": 0,
        "settings": {},
        "metrics": {"tagging_accuracy": 0.5},
    }
    save_model(directory, encoder, description | more, tokenizer, jax.device_get(params))
    return directory


@pytest.mark.slow
@pytest.mark.parametrize("separator", [" ", None])
def test_words_of_the_export_are_those_of_the_training(tmp_path, separator, capsys):
    """`None`: a model from before the separator was kept, whose words had no blanks."""
    tokenizer = make_byte_level(tmp_path)
    more = {"word_separator": separator} if separator else {}
    source = make_model(tmp_path / "model", tokenizer, **more)
    directory = export_task(source, tmp_path / "export", "float32", Publication(None, None, None))
    card = (directory / CARD_FILE).read_text()
    assert "ok     words one by one" in capsys.readouterr().out
    assert ("had a blank before them" in card) == (separator == " ")
    code = card.partition("```python\n")[2].partition("```")[0]
    found = {}
    exec(code.replace('path = "."', f"path = {str(directory)!r}"), found)
    assert capsys.readouterr().out.startswith("[('Every', '")
    if separator:
        words = tuple(found["words"])
        [row], _ = encode_examples(tokenizer, [TaggedExample(words, (0,) * len(words))], 64)
        assert found["tokens"]["input_ids"][0].tolist() == row.ids.tolist()
        assert found["first"] == np.flatnonzero(row.label >= 0).tolist()


def test_words_with_other_ids_fail_the_verification(tmp_path):
    tokenizer = make_byte_level(tmp_path)
    fast = transformers.PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "hf" / "tokenizer.json"))
    fast.save_pretrained(tmp_path / "export")
    ids = tokenizer.encode_batch(["every word"])[0]
    assert check_words(
        transformers, tmp_path / "export", {"words": ["every", " word"], "ids": ids}, has_code=False
    ).is_passed
    check = check_words(
        transformers, tmp_path / "export", {"words": ["every", "word"], "ids": ids}, has_code=False
    )
    assert not check.is_passed and check.detail.startswith("got [")
