"""The characters that WordPiece makes [UNK]: counted exactly, with the words that are too long to be cut."""

import json
import sys

import pytest

from data_pipelines import corpus, corpus_builder
from data_pipelines.dataset_info import load_dataset_info
from data_pipelines.tokenizer import main
from data_pipelines.tokenizers.adopt import adopt_tokenizer
from data_pipelines.tokenizers.load import load_tokenizer
from data_pipelines.tokenizers.train import train_tokenizer
from data_pipelines.tokenizers.unknown_characters import CharacterCounts, character_counter
from data_pipelines.tokenizers.wordpiece import BertText
from support.small_corpus import build, write

PHRASES = ("นักเรียน", "มหาวิทยาลัย", "กรุงเทพฯ", "แม่น้ำ", "เขียนจดหมาย")
SPACED = " ".join(PHRASES * 40)
UNSPACED = "".join(PHRASES * 40)  # one run
ODD = [
    "Élan İstanbul ΣΑΣ ﬁne 北京市 x\u0300y don't. \u00adsoft 각 ０１ 👩\u200d👩 カ\u3099 ガ a\tb\u3000c",
    "☃x q☃ " + "ab" * 51 + " " + "é" * 101 + "," + "北" * 150 + "x" * 100,
    "",
    " \n ",
]
NAME, UNCASED = "tokenizer", BertText(True)


def adopt(directory, text=UNCASED):
    """A tokenizer with pieces of one and two letters, for the letters of the first texts."""
    words = text.normalizer().normalize_str(f"{SPACED} {ODD[0]}").split()
    letters = sorted({letter for word in words for letter in word})
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    pieces = [*names, *letters, *(f"##{letter}" for letter in letters), "nak", "##ak", "ab"]
    directory.mkdir()
    (directory / "vocab.txt").write_text("".join(f"{piece}\n" for piece in pieces), encoding="utf-8")
    (directory / "tokenizer_config.json").write_text(json.dumps(text.config()))
    adopt_tokenizer(directory, directory / NAME, lowercase=None)
    return load_tokenizer(str(directory / NAME))


@pytest.mark.parametrize(
    "text", [UNCASED, BertText(False), BertText(True, False), BertText(False, tokenize_chinese_chars=False)]
)
def test_the_counts_are_those_of_the_words_that_the_library_cuts(tmp_path, text):
    tokenizer = adopt(tmp_path / "t", text)
    texts = [*ODD, SPACED, UNSPACED, UNSPACED + " ab", "żółw ☃"]
    words = [
        word
        for text in texts
        for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(tokenizer.normalize(text))
    ]
    unknown = [word for word in words if tokenizer.special.unk in tokenizer.encode_batch([word])[0]]
    long = [word for word in words if len(word) > 100]
    encoded = [[tokenizer.encode_batch([text])[0]] for text in texts]
    counts, example = character_counter(tokenizer).count(texts, encoded)
    characters = [sum(map(len, some)) for some in (words, unknown, long)]
    assert counts == CharacterCounts(*characters[:2], len(long), characters[2])
    assert len(long) >= 4 and example == "ab" * 10
    by_line = [tokenizer.encode_batch(text.split("\n")) for text in texts]
    assert character_counter(tokenizer).count(texts, by_line) == (counts, example)


def test_other_kinds_have_no_unknown_words(tmp_path):
    assert character_counter(train_tokenizer([SPACED], str(tmp_path / "t"), vocab_size=32)) is None


def write_mixture(path):
    """One document of many is most of the text, and a single [UNK]."""
    return write(path, [SPACED] * 3 + [UNSPACED * 3])


def test_the_report_warns_of_runs_without_spaces(tmp_path, capsys):
    source = write_mixture(tmp_path / "c.jsonl")
    flags = ["--input", source, "--kind", "wordpiece", "--vocab_size", "60"]
    main([*flags, "--out", str(tmp_path / "t")])
    out = capsys.readouterr().out
    assert "100.0000% of " in out and "unknown words    50.0000% of the characters" in out
    assert "\nWARNING: 50.0% of the " in out and "\n  1 run of more than 100 characters" in out
    assert "('นักเรียนมหาวิทยาลัยก'…)" in out and "--kind sentencepiece" in out
    assert "byte_fallback" not in out


def test_the_report_of_known_text_has_no_warning(tmp_path, capsys):
    source = write(tmp_path / "c.jsonl", [SPACED] * 3)
    main(["--input", source, "--kind", "wordpiece", "--vocab_size", "60", "--out", str(tmp_path / "t")])
    out = capsys.readouterr().out
    assert "unknown words    0.0000% of the characters are in words" in out
    assert "become [UNK]." not in out


def corpus_flags(source, tokenizer):
    sources = ["--train", source, "--validation", source, "--tokenizer", str(tokenizer)]
    return ["corpus", *sources, "--sequence_length=32", "--packing=documents"]


def test_the_builder_warns_and_records_them(tmp_path, monkeypatch, capsys):
    source = write_mixture(tmp_path / "c.jsonl")
    adopt(tmp_path / "t")
    flags = corpus_flags(source, tmp_path / "t" / NAME)
    monkeypatch.setattr(sys, "argv", [*flags, "--out", str(tmp_path / "out")])
    corpus.main()
    out, err = capsys.readouterr()
    assert out.count("[UNK] (50.00% of the characters)") == 2
    assert "WARNING" in err and "50.0% of the " in err and f"characters of {source}" in err
    assert "2 runs of more than 100 characters" in err and "'นักเรียน" in err
    assert "--kind sentencepiece" in err and "byte_fallback" not in err
    split = load_dataset_info(str(tmp_path / "out")).splits["train"]
    assert split["long_words"] == 1 and 2 * split["unknown_characters"] == split["characters"]
    assert split["unknown_characters"] == split["long_characters"] and split["long_word"].startswith("นักเรียน")
    assert split["by_source"][source]["unknown_characters"] == split["unknown_characters"]
    monkeypatch.setattr(sys, "argv", [*flags, "--out", str(tmp_path / "other"), "--dry_run"])
    corpus.main()
    out = capsys.readouterr().out
    assert "WARNING: 50.0% of the " in out and "1 run of more than 100 characters" in out


def test_any_number_of_processes_records_the_same(tmp_path):
    tokenizer = adopt(tmp_path / "t").directory
    write_mixture(tmp_path / "train.jsonl")
    write(tmp_path / "validation.jsonl", [SPACED, "☃"])
    sources = [str(tmp_path / name) for name in ("train.jsonl", "validation.jsonl")]
    settings = {"chunk_chars": 1_000, "train": sources, "tokenizer": tokenizer}
    for number in (1, 2):
        build(tmp_path, tmp_path / f"out{number}", number, **settings)
    one, two = ((tmp_path / f"out{number}" / "corpus.json").read_bytes() for number in (1, 2))
    assert one == two


def test_datasets_of_earlier_versions_have_no_such_counts(tmp_path):
    tokenizer = adopt(tmp_path / "t").directory
    write_mixture(tmp_path / "train.jsonl")
    write(tmp_path / "validation.jsonl", [SPACED])
    info = build(tmp_path, tmp_path / "out", tokenizer=tokenizer)
    path = tmp_path / "out" / "corpus.json"
    entries = json.loads(path.read_text())
    for split in entries["splits"].values():
        split.pop("long_word", None)
        for counts in (split, *split["by_source"].values()):
            for key in CharacterCounts._fields:
                del counts[key]
    path.write_text(json.dumps(entries))
    old = load_dataset_info(str(tmp_path / "out"))
    assert old.fingerprint == info.fingerprint and old.unknown_lines() == []
    assert info.unknown_lines() and "characters" not in "".join(old.split_lines())


def test_a_file_of_an_earlier_version_is_counted_in_a_resumed_build(tmp_path, monkeypatch):
    tokenizer = adopt(tmp_path / "t").directory
    write_mixture(tmp_path / "train.jsonl")
    write(tmp_path / "validation.jsonl", [SPACED])

    def interrupt(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(corpus_builder, "finish_dataset", interrupt)
        with pytest.raises(KeyboardInterrupt):
            build(tmp_path, tmp_path / "out", tokenizer=tokenizer)
    for path in (tmp_path / "out.partial").glob("*.counts.json"):
        counts = json.loads(path.read_text())
        del counts["long_word"]
        for of_source in counts["by_source"].values():
            for key in CharacterCounts._fields:
                del of_source[key]
        path.write_text(json.dumps(counts))
    assert build(tmp_path, tmp_path / "out", tokenizer=tokenizer).splits["train"]["long_words"] == 1
