"""Words of a domain that are added to a WordPiece vocabulary."""

import pytest
import tokenizers

from data_pipelines.tokenizer import main
from data_pipelines.tokenizers.add_words import add_words
from data_pipelines.tokenizers.adopt import adopt_tokenizer
from data_pipelines.tokenizers.load import load_tokenizer
from data_pipelines.tokenizers.train import train_tokenizer
from support.adopted import BRACKETS, write_unigram

PIECES = [*BRACKETS, *"abcd123", *(f"##{letter}" for letter in "abcd123"), "ab", "."]
# Of three pieces and more: dcba 3 times, abcd twice (ab ##c ##d), cdcd twice, bad and abcb once. ab and cd
# have fewer; x is unknown; 321 has no letter.
TEXT = "DCBA dcba. abcd ab ab ab ab cd cd cd xcba xcba 321 321 cdcd cdcd abcd bad\n\ndcba ab.abcb"


@pytest.fixture
def vocabulary(tmp_path):
    """A vocab.txt of lower-case text."""
    (tmp_path / "vocab.txt").write_text("\n".join(PIECES) + "\n")
    return str(tmp_path / "vocab.txt")


def add(source, directory, text=TEXT, max_words=9, lowercase=True):
    return add_words(
        source, str(directory), [text], max_words=max_words, max_chars=10_000, lowercase=lowercase
    )


def test_the_words_are_those_that_counting_by_hand_gives(vocabulary, tmp_path):
    added = add(vocabulary, tmp_path / "new")
    assert added.words == ["dcba", "abcd", "cdcd"] and added.num_candidates == 3
    assert added.num_occurrences == 7 and added.num_words == 23
    new = load_tokenizer(str(tmp_path / "new"))
    assert new.vocabulary() == [*PIECES, "dcba", "abcd", "cdcd"]
    assert new.special._asdict() == {"pad": 0, "cls": 1, "sep": 2, "unk": 3, "mask": 4}
    # The library itself, on the file that was written; a new word also starts longer ones.
    library = tokenizers.Tokenizer.from_file(str(tmp_path / "new" / "tokenizer.json"))
    assert library.encode("Abcd dcbab abc", add_special_tokens=False).tokens == [
        *("abcd", "dcba", "##b", "ab", "##c")
    ]
    old = tokenizers.Tokenizer.from_str((tmp_path / "new" / "tokenizer.json").read_text())
    old.model = tokenizers.models.WordPiece(
        {piece: number for number, piece in enumerate(PIECES)}, unk_token="[UNK]"
    )
    for tokenizer, num_pieces in ((old, added.pieces_before), (library, added.pieces_after)):
        assert len(tokenizer.encode(TEXT, add_special_tokens=False).ids) == num_pieces


def test_no_more_than_were_asked_for(vocabulary, tmp_path):
    added = add(vocabulary, tmp_path / "new", max_words=2)
    assert added.words == ["dcba", "abcd"] and added.num_candidates == 3


def test_a_token_beside_the_vocabulary_keeps_its_id(vocabulary, tmp_path):
    adopt_tokenizer(vocabulary, tmp_path / "adopted", lowercase=True)
    library = tokenizers.Tokenizer.from_file(str(tmp_path / "adopted" / "tokenizer.json"))
    assert library.add_tokens(["<who>"]) == 1
    (tmp_path / "other").mkdir()
    library.save(str(tmp_path / "other" / "tokenizer.json"))
    add(str(tmp_path / "other"), tmp_path / "new", max_words=1, lowercase=None)
    new = load_tokenizer(str(tmp_path / "new"))
    assert new.vocabulary() == [*PIECES, "<who>", "dcba"]
    assert new.encode_batch(["<who> dcba"]) == [[len(PIECES), len(PIECES) + 1]]


def test_the_same_words_again_and_others(vocabulary, tmp_path):
    add(vocabulary, tmp_path / "new")
    before = (tmp_path / "new" / "tokenizer_meta.json").stat().st_mtime_ns
    add(vocabulary, tmp_path / "new")
    assert (tmp_path / "new" / "tokenizer_meta.json").stat().st_mtime_ns == before
    with pytest.raises(FileExistsError, match=r"new: holds a tokenizer of fingerprint .* choose another"):
        add(vocabulary, tmp_path / "new", max_words=1)


def test_errors_come_before_anything_is_written(vocabulary, tmp_path):
    with pytest.raises(ValueError, match=r"got a text in which no word occurs 2 times and is cut into 3"):
        add(vocabulary, tmp_path / "new", "ab cd abcd xcba xcba")
    with pytest.raises(ValueError, match="every document was empty"):
        add(vocabulary, tmp_path / "new", " \n")
    write_unigram(tmp_path / "unigram.json")
    with pytest.raises(ValueError, match=r"got Unigram, expected WordPiece .*; train a tokenizer"):
        add(str(tmp_path / "unigram.json"), tmp_path / "new", lowercase=None)
    train_tokenizer(["abc abd abe"], str(tmp_path / "own"), vocab_size=12)
    with pytest.raises(ValueError, match="got a SentencePiece model, expected WordPiece"):
        add(str(tmp_path / "own"), tmp_path / "new", lowercase=None)
    assert not (tmp_path / "new").exists()


def test_the_command(vocabulary, tmp_path, capsys):
    (tmp_path / "domain.txt").write_text(TEXT)
    args = ["--from", vocabulary, "--add_words", "2", "--input", str(tmp_path / "domain.txt")]
    with pytest.raises(SystemExit, match=r"^error: .*, or pass --lowercase or --no-lowercase$"):
        main([*args, "--out", str(tmp_path / "new")])
    main([*args, "--out", str(tmp_path / "new"), "--lowercase"])
    out = capsys.readouterr().out
    assert f"{len(PIECES) + 2} pieces" in out
    assert "2 of 3 that were cut into 3 pieces or more: dcba, abcd\n" in out
    assert load_tokenizer(str(tmp_path / "new")).vocabulary()[-2:] == ["dcba", "abcd"]
