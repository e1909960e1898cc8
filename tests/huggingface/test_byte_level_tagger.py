"""A tagger with a byte-level vocabulary: its export reads words as it was trained to, and says how."""

import numpy as np
import pytest
import transformers

from data_pipelines.tasks.encoding import encode_examples
from data_pipelines.tasks.load import TaggedExample
from electra_jax.conversion.export_task import export_task
from electra_jax.huggingface.export import CARD_FILE
from electra_jax.huggingface.task_checks import check_words
from support.byte_level import make_byte_level
from support.tiny_task_exports import ELECTRA, UNSAID, save_random


@pytest.mark.slow
@pytest.mark.parametrize("separator", [" ", None])
def test_words_of_the_export_are_those_of_the_training(tmp_path, separator, capsys):
    """`None`: a model from before the separator was kept, whose words had no blanks."""
    tokenizer = make_byte_level(tmp_path)
    more = {"word_separator": separator} if separator else {}
    model = ELECTRA(vocab_size=tokenizer.vocab_size)
    source = save_random(tmp_path / "model", tokenizer, model, "tagging", "published", **more)
    directory = export_task(source, tmp_path / "export", "float32", UNSAID)
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
    exported = transformers.AutoTokenizer.from_pretrained(tmp_path / "export")
    ids = tokenizer.encode_batch(["every word"])[0]
    assert check_words(exported, {"words": ["every", " word"], "ids": ids}).is_passed
    check = check_words(exported, {"words": ["every", "word"], "ids": ids})
    assert not check.is_passed and check.detail.startswith("got [")
