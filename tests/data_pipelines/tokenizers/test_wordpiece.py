"""WordPiece training: the vocabulary, its order, its files, and the same ids in `transformers`."""

import os
import subprocess
import sys

import pytest
import transformers
from transformers import ElectraTokenizerFast

from data_pipelines.tokenizer import main
from data_pipelines.tokenizers.load import load_tokenizer
from data_pipelines.tokenizers.train import train_tokenizer
from data_pipelines.tokenizers.train_wordpiece import train_wordpiece
from data_pipelines.tokenizers.wordpiece import BertText
from electra_jax.huggingface.tokenizer import write_tokenizer
from support.paths import ROOT

NAMES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
GERMAN = [
    "Die Straße über den Fluß führt nach Köln, wo die Bäume grün sind.",
    "Größe und Länge der Brücke überraschen die Gäste; 1,5 km für Fußgänger!",
    "Tämä silta on pitkä, ja sen yli pääsee jalan. Élan vital, naïveté, ﬁne",
    "北京 is written 北京市 and [MASK] is not special here; soft\u00adhyphen, don't.",
]
UNCASED, CASED = BertText(lowercase=True), BertText(lowercase=False)
# Prints the vocabulary of many words of equal frequency: the order of merges depends on the order of ids.
MANY_TIES = """
import sys
from data_pipelines.tokenizers.train_wordpiece import train_wordpiece
from data_pipelines.tokenizers.wordpiece import BertText
words = [a + b + c + d for a in "abcdef" for b in "ghijkl" for c in "mnopqr" for d in "stuvw"]
text = BertText(lowercase=True)
print(train_wordpiece(words * 2, sys.argv[1], vocab_size=300, text=text).vocabulary())
"""


def train(documents, directory, vocab_size, text=UNCASED, **options):
    return train_wordpiece(documents, str(directory), vocab_size=vocab_size, text=text, **options)


def test_the_vocabulary_is_the_one_that_counting_by_hand_gives(tmp_path):
    # Characters, then a+##b (4 times), then ab+##c (twice).
    tokenizer = train(["ab ab abc", "ABC d d"], tmp_path / "t", 13)
    assert tokenizer.vocabulary() == [*NAMES, "##b", "##c", "a", "b", "c", "d", "ab", "abc"]
    assert tokenizer.special._asdict() == {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4}
    assert tokenizer.encode_batch(["ab abc abb D", "dx", "[MASK]"]) == [[11, 12, 11, 5, 10], [1], [1, 1, 1]]
    lines = (tmp_path / "t" / "vocab.txt").read_text(encoding="utf-8").splitlines()
    assert lines == tokenizer.vocabulary()


def test_pieces_must_be_frequent_enough(tmp_path):
    with pytest.raises(ValueError, match=r"got 13, but the text is too small for it: at most 12 pieces"):
        train(["ab ab abc", "ABC d d"], tmp_path / "t", 13, min_frequency=3)
    assert train(["ab ab abc", "ABC d d"], tmp_path / "t", 12, min_frequency=3).vocabulary()[-1] == "ab"


def test_words_that_would_be_unknown_teach_nothing(tmp_path):
    documents = ["ab " * 30_000 + "xy" * 51 + " aøb"]
    tokenizer = train(documents, tmp_path / "t", 9, character_coverage=0.9999)
    assert tokenizer.vocabulary() == [*NAMES, "##b", "a", "b", "ab"]


@pytest.mark.parametrize("run", range(2))
def test_the_same_text_gives_the_same_vocabulary_in_another_process(tmp_path, run):
    def output(threads):
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAYON_NUM_THREADS": str(threads)}
        command = [sys.executable, "-c", MANY_TIES, str(tmp_path / f"t{threads}")]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout

    assert output(1) == output(4)
    files = [sorted((tmp_path / name).iterdir()) for name in ("t1", "t4")]
    assert [path.read_bytes() for path in files[0]] == [path.read_bytes() for path in files[1]]


@pytest.mark.parametrize(
    "text",
    [UNCASED, CASED, BertText(True, strip_accents=False), BertText(False, tokenize_chinese_chars=False)],
)
def test_transformers_gives_the_same_ids(tmp_path, text):
    tokenizer = train(GERMAN * 3, tmp_path / "t", 160, text)
    write_tokenizer_to = tmp_path / "export"
    write_tokenizer_to.mkdir()
    write_tokenizer(tmp_path / "t", write_tokenizer_to, model_max_length=128)
    special = tokenizer.special
    texts = [*GERMAN[:3], "KÖLN köln Köln Koln", "unseen: ☃ żółć", "北京市"]
    for other in (
        ElectraTokenizerFast.from_pretrained(str(tmp_path / "t")),
        transformers.AutoTokenizer.from_pretrained(str(tmp_path / "t")),
        transformers.AutoTokenizer.from_pretrained(str(write_tokenizer_to)),
    ):
        theirs = [other(text)["input_ids"] for text in texts]
        assert theirs == [[special.cls, *ids, special.sep] for ids in tokenizer.encode_batch(texts)]
        names = (other.pad_token_id, other.unk_token_id, other.mask_token_id)
        assert names == (special.pad, special.unk, special.mask)


def test_normalisation(tmp_path):
    text = "Köln 北京"
    normal = lambda name, settings: train(GERMAN * 3, tmp_path / name, 150, settings).normalize(text).split()
    assert normal("a", UNCASED) == ["koln", "北", "京"]
    assert normal("b", CASED) == ["Köln", "北", "京"]
    assert normal("c", BertText(True, strip_accents=False)) == ["köln", "北", "京"]
    assert normal("d", BertText(True, tokenize_chinese_chars=False)) == ["koln", "北京"]


def test_only_the_first_characters_are_read(tmp_path):
    def documents():
        yield "ab " * 100
        raise AssertionError("a document after the cap was read")

    assert train(documents(), tmp_path / "t", 9, max_training_chars=300).num_pieces == 9


def test_errors_come_before_anything_is_written(tmp_path):
    for options, message in (
        ({"vocab_size": 12}, r"different characters of the text need at least \d+ pieces;"),
        ({"vocab_size": 9000}, "too small for it: at most"),
        ({"vocab_size": 99, "min_frequency": 0}, "min_frequency: got 0, expected at least 1"),
        ({"vocab_size": 99, "character_coverage": 0.5}, "expected 0.98 to 1.0"),
        ({"vocab_size": 99, "max_training_chars": 0}, "max_training_chars: got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            train(GERMAN, tmp_path / "t", **options)
    with pytest.raises(ValueError, match="no word in the text: every document is empty"):
        train(["", " \n"], tmp_path / "t", 99)
    assert not list(tmp_path.iterdir())


def test_a_finished_directory_is_used_again_and_no_other(tmp_path):
    first = train(GERMAN * 3, tmp_path / "t", 120)
    assert train([], tmp_path / "t", 120).fingerprint == first.fingerprint
    with pytest.raises(FileExistsError, match="do_lower_case is True, asked for False"):
        train([], tmp_path / "t", 120, CASED)
    with pytest.raises(FileExistsError, match="holds a tokenizer of format 'tokenizers'"):
        train_tokenizer([], str(tmp_path / "t"), vocab_size=120)


def test_the_command_trains_it(tmp_path, capsys):
    (tmp_path / "c.txt").write_text("\n\n".join(GERMAN * 3), encoding="utf-8")
    args = ["--kind", "wordpiece", "--input", str(tmp_path / "c.txt"), "--vocab_size", "130"]
    main([*args, "--out", str(tmp_path / "t"), "--no-strip_accents"])
    out = capsys.readouterr().out
    assert "130 pieces, 130 embedding rows" in out and "pad 0, cls 2, sep 3, unk 1, mask 4" in out
    assert "Ä É ö é ﬁ becomes ä é ö é ﬁ" in out
    assert load_tokenizer(str(tmp_path / "t")).normalize("KÖLN") == "köln"
    for flags, message in (
        (["--byte_fallback"], "--byte_fallback: only of --kind sentencepiece, got --kind wordpiece"),
        (["--kind", "sentencepiece", "--min_frequency", "3"], "--min_frequency: only of --kind wordpiece"),
        (["--kind", "sentencepiece", "--no-strip_accents"], "--strip_accents: only of --kind wordpiece"),
    ):
        with pytest.raises(SystemExit):
            main([*args, "--out", str(tmp_path / "u"), *flags])
        assert message in capsys.readouterr().err
