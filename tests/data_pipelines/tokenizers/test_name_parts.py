"""Which pieces spell names of source code: together they are the names that a regular expression finds."""

import re

import pytest

from data_pipelines.tokenizers.train import train_tokenizer
from data_pipelines.tokenizers.train_wordpiece import train_wordpiece
from data_pipelines.tokenizers.wordpiece import BertText
from data_pipelines.tokenizers.words import name_parts
from support.byte_level import make_byte_level

CODE = [
    "def my_sum(first, second=2): return first + second  # the sum",
    "total += my_sum(x1, x2)[0]\n\tprint(total, 'été', x1)",
    "class Sum2(Base):\n    def add(self, x1): self.total += x1",
]


def make_sentencepiece(root):
    return train_tokenizer(CODE, str(root / "tokenizer"), vocab_size=52)


def make_byte_level_bpe(root):
    return make_byte_level(root, texts=CODE)


@pytest.mark.parametrize("make", [make_sentencepiece, make_byte_level_bpe])
def test_the_parts_of_names_are_the_names(make, tmp_path):
    tokenizer = make(tmp_path)
    parts = name_parts(tokenizer)
    assert len(parts) == tokenizer.num_pieces
    assert not any(parts[number].text for number in tokenizer.special)
    for text in CODE:
        (ids,) = tokenizer.encode_batch([text])
        line = "".join(" " * begins + text + "·" * ends for text, begins, ends in (parts[one] for one in ids))
        names = [name for name in re.findall(r"\w+", text) if name.isascii() and name[0].isalpha()]
        found = [name for name in re.findall("[A-Za-z0-9_]+", line) if name[0].isalpha() and name != "t"]
        assert found == names and len(names) > 5  # "t" is from "été"


def test_a_tokenizer_that_cuts_names(tmp_path):
    tokenizer = train_wordpiece(CODE, str(tmp_path), vocab_size=70, text=BertText(lowercase=True))
    with pytest.raises(ValueError, match=r"do not show where white space lies, .* Take 'tokens' in place of"):
        name_parts(tokenizer)
