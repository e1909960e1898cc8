"""Which pieces begin a word, in every format of tokenizers."""

import pytest

from data_pipelines.tokenizers.train import train_tokenizer
from data_pipelines.tokenizers.train_wordpiece import train_wordpiece
from data_pipelines.tokenizers.wordpiece import BertText
from data_pipelines.tokenizers.words import word_starts
from support.byte_level import make_byte_level

TEXTS = ["a tea, a boat and a word of tea", "the boats, every word", "teas and seaboats; reworded boats"]


def make_sentencepiece(root):
    return train_tokenizer(TEXTS, str(root / "tokenizer"), vocab_size=31)


def make_wordpiece(root):
    return train_wordpiece(TEXTS, str(root / "tokenizer"), vocab_size=46, text=BertText(lowercase=True))


def make_byte_level_bpe(root):
    return make_byte_level(root, add_prefix_space=True, texts=TEXTS)


@pytest.mark.parametrize(
    ("make", "punctuation_is_a_word"),
    [(make_sentencepiece, False), (make_wordpiece, True), (make_byte_level_bpe, False)],
)
def test_a_word_begins_where_the_text_has_one(make, punctuation_is_a_word, tmp_path):
    """The pieces of each text, cut before those that begin a word, are its words."""
    tokenizer = make(tmp_path)
    starts, num_parts = word_starts(tokenizer), 0
    assert starts.shape == (tokenizer.num_pieces,) and starts[list(tokenizer.special)].all()
    for text in TEXTS:
        (ids,) = tokenizer.encode_batch([text])
        assert tokenizer.special.unk not in ids
        words = []
        for one in ids:
            words = [*words, [one]] if starts[one] or not words else [*words[:-1], [*words[-1], one]]
        num_parts += sum(len(word) > 1 for word in words)
        apart = text.replace(",", " ,").replace(";", " ;") if punctuation_is_a_word else text
        assert [tokenizer.decode(word).strip() for word in words] == apart.split()
    assert num_parts > 2


def test_a_tokenizer_that_does_not_show_words(tmp_path):
    tokenizer = make_byte_level(tmp_path, texts=["onlyoneword" * 3])
    tokenizer.vocabulary = lambda: ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b"]
    with pytest.raises(
        ValueError, match=r"do not show where a word begins, expected .* Take 'tokens' in plac"
    ):
        word_starts(tokenizer)
