"""Where the rows and output biases of a new vocabulary start."""

import numpy as np
import pytest
import tokenizers

from data_pipelines.tokenizers.add_words import add_words
from data_pipelines.tokenizers.load import load_tokenizer
from electra_jax.huggingface.restore import resize_vocabulary
from support.adopted import BRACKETS, adopt

OLD = [*BRACKETS, *"abcd", *(f"##{letter}" for letter in "abcd"), "ab"]
TABLE, BIAS = "embeddings/word_embeddings/embedding", "head/bias"


def word_pieces(directory, pieces):
    """The tokenizer directory of a list of pieces."""
    directory.mkdir()
    (directory / "vocab.txt").write_text("\n".join(pieces) + "\n")
    return adopt(directory / "vocab.txt", directory / "tokenizer", lowercase=True)


def random_params(vocab_size):
    """Two models with tables of their own; the discriminator has no output bias."""
    rng = np.random.default_rng(0)
    table = lambda: {"word_embeddings": {"embedding": rng.normal(size=(vocab_size, 3)).astype(np.float32)}}
    bias = rng.normal(size=vocab_size).astype(np.float32)
    return {
        "generator": {"embeddings": table(), "head": {"bias": bias}},
        "discriminator": {"embeddings": table()},
    }


def vocabulary_arrays(params):
    """Every array with a row for each piece."""
    tables = [params[role]["embeddings"]["word_embeddings"]["embedding"] for role in params]
    return [*tables, params["generator"]["head"]["bias"]]


@pytest.fixture
def old(tmp_path):
    return word_pieces(tmp_path / "old", OLD)


def test_added_words_start_at_the_mean_of_their_old_pieces(old, tmp_path):
    text = "dcba dcba dcba abcd abcd"
    new_directory = str(tmp_path / "new")
    add_words(old.directory, new_directory, [text], max_words=9, max_chars=99, lowercase=None)
    new, params = load_tokenizer(new_directory), random_params(len(OLD))
    resized, note = resize_vocabulary(params, old, new, seed=0)
    # What the library makes of the words, not this project's code.
    library = tokenizers.Tokenizer.from_file(f"{old.directory}/tokenizer.json")
    cut = [library.encode(word, add_special_tokens=False).ids for word in ("dcba", "abcd")]
    assert [len(ids) for ids in cut] == [4, 3]
    for before, after in zip(vocabulary_arrays(params), vocabulary_arrays(resized), strict=True):
        assert len(after) == len(OLD) + 2
        np.testing.assert_array_equal(after[: len(OLD)], before)
        for row, ids in enumerate(cut, len(OLD)):
            expected = sum(before[i] for i in ids) / len(ids) if before.ndim > 1 else sum(before) / len(OLD)
            np.testing.assert_allclose(after[row], expected, rtol=1e-5)
    assert "2 start at the mean of the old pieces that spell them; the others, 0, near" in note


def test_rows_follow_the_text_of_pieces_and_not_their_ids(old, tmp_path):
    # Other ids, fewer pieces, and others: "##cd" stands inside a word, nothing is known of "x".
    new = word_pieces(tmp_path / "new", ["d", "##b", *reversed(BRACKETS), "abc", "##cd", "x"])
    params = random_params(len(OLD))
    resized, note = resize_vocabulary(params, old, new, seed=0)
    row = {piece: number for number, piece in enumerate(OLD)}
    for before, after in zip(vocabulary_arrays(params), vocabulary_arrays(resized), strict=True):
        assert len(after) == 10
        kept = [row[piece] for piece in ("d", "##b", *reversed(BRACKETS))]
        np.testing.assert_array_equal(after[:7], before[kept])
        if before.ndim == 1:
            np.testing.assert_allclose(after[7:], before.mean(), rtol=1e-5)
            continue
        np.testing.assert_allclose(after[7], (before[row["ab"]] + before[row["##c"]]) / 2, rtol=1e-6)
        np.testing.assert_allclose(after[8], (before[row["##c"]] + before[row["##d"]]) / 2, rtol=1e-6)
        # Without old pieces: near the mean of the table, by a tenth of its spread.
        gap = np.abs(after[9] - before.mean(0)) / before.std(0)
        assert (gap > 1e-3).all() and gap.max() < 0.4
    assert "7 of 10 pieces keep their rows" in note
    assert "2 start at the mean of the old pieces that spell them; the others, 1, near" in note
