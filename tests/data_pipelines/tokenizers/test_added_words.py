"""Words of a domain that are added to a WordPiece vocabulary."""

import pytest
import tokenizers

from data_pipelines.tokenizer import main
from data_pipelines.tokenizers import add_words as add_words_module
from data_pipelines.tokenizers.add_words import add_words, added_lines
from data_pipelines.tokenizers.adopt import adopt_tokenizer
from data_pipelines.tokenizers.load import load_tokenizer
from data_pipelines.tokenizers.train import train_tokenizer
from support.adopted import BRACKETS, write_unigram

PIECES = [*BRACKETS, *"abcd123", *(f"##{letter}" for letter in "abcd123"), "ab", "."]
# Of three pieces and more: dcba 3 times, abcd twice (ab ##c ##d), cdcd twice, bad and abcb once. ab and cd
# have fewer; x is unknown; 321 has no letter.
TEXT = "cdcd DCBA dcba. abcd ab ab ab ab cd cd cd xcba xcba 321 321 cdcd abcd bad\n\ndcba ab.abcb"


@pytest.fixture
def vocabulary(tmp_path):
    """A vocab.txt of lower-case text."""
    (tmp_path / "vocab.txt").write_text("\n".join(PIECES) + "\n")
    return str(tmp_path / "vocab.txt")


def add(source, directory, text=TEXT, max_words=9, lowercase=True):
    return add_words(
        source, str(directory), [text], max_words=max_words, max_chars=10_000, lowercase=lowercase
    )


def test_the_words_are_those_that_counting_by_hand_gives(vocabulary, tmp_path, monkeypatch):
    monkeypatch.setattr(add_words_module, "CUT_AT_ONCE", 2)
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


def test_special_tokens_and_pieces_inside_words_are_not_added(tmp_path):
    pieces = [*BRACKETS, *"abc[]MASK#", *(f"##{letter}" for letter in "abc[]MASK#")]
    library = tokenizers.Tokenizer(
        tokenizers.models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]")
    )
    library.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    library.add_special_tokens([*BRACKETS, "cba"])
    (tmp_path / "old").mkdir()
    library.save(str(tmp_path / "old" / "tokenizer.json"))
    # All of them have three pieces and more here, since special tokens in text are ordinary text.
    text = "[MASK] [MASK] ##abc ##abc cba cba abc abc"
    assert add(str(tmp_path / "old"), tmp_path / "new", text, lowercase=None).words == ["abc"]
    assert load_tokenizer(str(tmp_path / "new")).vocabulary() == [*pieces, "cba", "abc"]


def test_words_that_become_unknown_are_reported(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join([*BRACKETS, "a", "##b", "##c", "##cde"]) + "\n")
    added = add(str(tmp_path / "vocab.txt"), tmp_path / "new", "abc abc abcde abcdeb abcc")
    # "abcde" was a ##b ##cde; behind "abc" there is no piece for "de".
    assert load_tokenizer(str(tmp_path / "new")).pieces("abcdeb abcc") == ["[UNK]", "abc", "##c"]
    assert added.words == ["abc"] and added.num_lost == 2
    assert "WARNING: 2 words of the text became unknown" in added_lines(added)[-1]


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
    with pytest.raises(ValueError, match="no word in the text: every document is empty"):
        add(vocabulary, tmp_path / "new", " \n")
    write_unigram(tmp_path / "unigram.json")
    with pytest.raises(ValueError, match=r"got Unigram, expected WordPiece .*; train a tokenizer"):
        add(str(tmp_path / "unigram.json"), tmp_path / "new", lowercase=None)
    train_tokenizer(["abc abd abe"], str(tmp_path / "own"), vocab_size=12)
    with pytest.raises(ValueError, match="got a SentencePiece model, expected WordPiece"):
        add(str(tmp_path / "own"), tmp_path / "new", lowercase=None)
    assert not (tmp_path / "new").exists()


def test_a_directory_of_something_else_is_refused_before_the_text_is_read(vocabulary, tmp_path):
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "notes.txt").write_text("mine")
    unread = iter([TEXT])
    with pytest.raises(FileExistsError, match="exists and holds no tokenizer"):
        add_words(vocabulary, str(tmp_path / "new"), unread, max_words=9, max_chars=99, lowercase=True)
    assert next(unread) == TEXT


def test_the_command(vocabulary, tmp_path, capsys):
    (tmp_path / "domain.txt").write_text(TEXT)
    args = ["--from", vocabulary, "--add_words", "2", "--input", str(tmp_path / "domain.txt")]
    with pytest.raises(SystemExit, match=r"^error: .*, or pass --lowercase or --no-lowercase$"):
        main([*args, "--out", str(tmp_path / "new")])
    main([*args, "--out", str(tmp_path / "new"), "--lowercase"])
    out = capsys.readouterr().out
    assert f"{len(PIECES) + 2} pieces" in out
    assert "2 of 3 that were cut into 3 pieces or more: dcba, abcd\n" in out
    num_chars = len(TEXT.replace("\n\n", ""))
    assert f"read             2 documents: {num_chars} characters, all of the text\n" in out
    assert "words of the text became unknown" not in out
    assert load_tokenizer(str(tmp_path / "new")).vocabulary()[-2:] == ["dcba", "abcd"]


def test_the_command_names_the_cap_that_ended_the_text(vocabulary, tmp_path, capsys):
    for name in ("first", "second"):
        (tmp_path / f"{name}.txt").write_text(TEXT)
    sources = [str(tmp_path / f"{name}.txt") for name in ("first", "second")]
    cap = ["--max_training_chars", "60", "--lowercase"]
    main(
        ["--from", vocabulary, "--add_words", "9", "--input", *sources, "--out", str(tmp_path / "new"), *cap]
    )
    out = capsys.readouterr().out
    assert "read             1 documents: 60 characters, the cap --max_training_chars=60\n" in out
    assert f"not read         {sources[1]}: the cap ended the text before" in out
    assert load_tokenizer(str(tmp_path / "new")).vocabulary()[len(PIECES) :] == ["dcba"]
