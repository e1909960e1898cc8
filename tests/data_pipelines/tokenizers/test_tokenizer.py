"""`python -m data_pipelines.tokenizer`: train, adopt, and flags that do not fit together."""

import json
import random
import re

import pytest

from data_pipelines import tokenizer as tokenizer_command
from data_pipelines.documents import ReadReport
from data_pipelines.json_files import read_json, write_json
from data_pipelines.tokenizer import main
from data_pipelines.tokenizers.load import load_tokenizer
from data_pipelines.tokenizers.watching import watched

_random = random.Random(0)
DOCUMENTS = [
    " ".join("".join(_random.choices("abcdefghijklmnop", k=4)) for _ in range(30)) for _ in range(200)
]
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "##b", "A"]


def test_training(tmp_path, capsys):
    (tmp_path / "c.txt").write_text("\n\n".join(DOCUMENTS), encoding="utf-8")
    args = ["--input", str(tmp_path / "c.txt"), "--out", str(tmp_path / "t"), "--vocab_size", "200"]
    main(args)
    out = capsys.readouterr().out
    assert "200 pieces, 256 embedding rows" in out and "pieces per word" in out and "on 200 documents" in out
    assert "pad 0, cls 1, sep 2, unk 3, mask 4" in out
    main(args)
    assert "nothing was trained" in capsys.readouterr().out
    with pytest.raises(SystemExit, match=r"^error: .*requested_vocab_size is 200, asked for 300"):
        main([*args[:4], "--vocab_size", "300"])


@pytest.mark.parametrize("kind", ["sentencepiece", "wordpiece"])
def test_a_tokenizer_of_another_text_is_refused_but_not_of_a_text_that_was_moved(kind, tmp_path, capsys):
    for name in ("a/c.txt", "b/c.txt", "b/d.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("\n\n".join(DOCUMENTS), encoding="utf-8")
    words = ["--out", str(tmp_path / "t"), "--vocab_size", "60", "--kind", kind, "--input"]
    main([*words, str(tmp_path / "a" / "c.txt")])
    path = tmp_path / "t" / "tokenizer_meta.json"
    meta = read_json(path)
    assert meta.pop("input") == ["c.txt"]
    main([*words, str(tmp_path / "b" / "c.txt")])
    other = [*words, str(tmp_path / "b" / "d.txt")]
    with pytest.raises(SystemExit, match=r"input is \['c\.txt'\], asked for \['d\.txt'\]\); choose another"):
        main(other)
    write_json(path, meta)  # of an earlier version
    capsys.readouterr()
    main(other)
    assert "nothing was trained" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["sentencepiece", "wordpiece"])
@pytest.mark.parametrize(
    ("flag", "value", "default"),
    [
        ("text_field", "body", "text"),
        ("on_invalid_utf8", "skip", "error"),
        ("max_record_bytes", 1000, 64 << 20),
    ],
)
def test_a_tokenizer_of_records_that_were_read_otherwise_is_refused(
    kind, flag, value, default, tmp_path, capsys
):
    records = [{"text": text, "body": text} for text in DOCUMENTS[:40]]
    (tmp_path / "c.jsonl").write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    words = ["--input", str(tmp_path / "c.jsonl"), "--out", str(tmp_path / "t"), "--kind", kind]
    words += ["--vocab_size", "40"]
    main(words)
    path = tmp_path / "t" / "tokenizer_meta.json"
    meta = read_json(path)
    other = [*words, f"--{flag}", str(value)]
    with pytest.raises(SystemExit, match=f"{flag} is {default!r}, asked for {value!r}\\); choose another"):
        main(other)
    assert meta.pop(flag) == default
    write_json(path, meta)  # of an earlier version
    capsys.readouterr()
    main(other)
    assert "nothing was trained" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("kind", "vocab_size", "characters"),
    [
        # The combining accent makes an é there, which occurs twice; here it is stripped.
        (
            "sentencepiece",
            "14",
            "99.9920% of 99,990 have a piece; those without: ☃ (U+2603) 3, é (U+00E9) 2, ",
        ),
        ("wordpiece", "18", "99.9940% of 99,990 have a piece; those without: ☃ (U+2603) 3, 😀 (U+1F600) 2, "),
    ],
)
def test_what_the_text_is_like(tmp_path, capsys, kind, vocab_size, characters):
    text = " ".join(["abcd"] * 24_983 + ["abcde" * 10, "xe\u0301☃😀", "☃😀", "☃", "é"])
    (tmp_path / "c.txt").write_text(text, encoding="utf-8")
    args = ["--input", str(tmp_path / "c.txt"), "--out", str(tmp_path / "t"), "--kind", kind]
    main([*args, "--vocab_size", vocab_size, "--character_coverage", "0.9999"])
    out = capsys.readouterr().out
    assert f"characters       {characters}" in out, out
    assert f"longest words    {'abcde' * 8}… (50 characters), xe\u0301☃😀, abcd" in out
    assert f"on 1 documents: {len(text):,} characters, all of the text" in out


def test_how_much_of_the_text_was_read(tmp_path, capsys, monkeypatch):
    for name in "abc":
        (tmp_path / f"{name}.txt").write_text("\n\n".join(DOCUMENTS), encoding="utf-8")
    sources = [str(tmp_path / f"{name}.txt") for name in "abc"]
    size = sum(map(len, DOCUMENTS))
    args = ["--input", *sources, "--vocab_size", "200", "--max_training_chars"]
    main([*args, str(size + 1), "--out", str(tmp_path / "t")])
    out = capsys.readouterr().out
    assert f"s on 201 documents: {size + 1:,} characters, the cap --max_training_chars={size + 1}" in out
    assert f"not read         {sources[2]}: the cap" in out
    main([*args, str(3 * size), "--out", str(tmp_path / "u")])
    out = capsys.readouterr().out
    assert f"s on 600 documents: {3 * size:,} characters, all of the text" in out and "not read" not in out
    monkeypatch.setattr(tokenizer_command, "MIN_BYTES", 1)  # real sources are larger than a block
    main([*args, str(size + 1), "--out", str(tmp_path / "v")])
    assert "s on 201 of about 301 documents: " in capsys.readouterr().out  # two of three files were opened


@pytest.mark.parametrize("kind", ["sentencepiece", "wordpiece"])
@pytest.mark.parametrize("max_chars", [2_000, 10**9])
def test_training_is_never_silent(tmp_path, capsys, kind, max_chars):
    (tmp_path / "c.txt").write_text("\n\n".join(DOCUMENTS), encoding="utf-8")
    args = ["--input", str(tmp_path / "c.txt"), "--out", str(tmp_path / "t"), "--vocab_size", "60"]
    args += ["--kind", kind, "--max_training_chars", str(max_chars)]
    main(args)
    lines = capsys.readouterr().err.splitlines()
    reading, training, trained, measuring, measured = (line for line in lines if "%" not in line)
    assert (reading, training) == ("reading text …", "training the vocabulary …")
    assert re.fullmatch(r"training the vocabulary: \d+\.\d s", trained)
    assert measuring == "measuring the tokenizer on the text …" and measured.startswith(measuring[:-2] + ":")
    total = (
        r"2\.00k characters" if max_chars == 2_000 else rf"{(tmp_path / 'c.txt').stat().st_size / 1e3:.1f}kB"
    )
    [shown] = [line for line in lines if "%" in line]
    assert re.fullmatch(rf"reading text  \S+( characters)?/{total} \(\d+\.\d%\)  documents 1", shown)
    main(args)
    assert [line[:9] for line in capsys.readouterr().err.splitlines()] == ["measuring"] * 2


def test_progress_is_shown_before_the_first_document_is_read(capsys):
    def documents():
        assert capsys.readouterr().err == "reading text …\n"
        yield "abc"
        raise AssertionError("a document after the cap was read")

    report = ReadReport(characters=3)
    with watched(documents(), 3, report, None) as texts:
        assert next(texts) == "abc"
        assert capsys.readouterr().err.endswith("training the vocabulary …\n")


@pytest.mark.parametrize(("flag", "ids"), [("--lowercase", [5, 6]), ("--no-lowercase", [7, 1])])
def test_adopting(tmp_path, capsys, flag, ids):
    (tmp_path / "vocab.txt").write_text("\n".join(PIECES) + "\n")
    args = ["--from", str(tmp_path / "vocab.txt"), "--out", str(tmp_path / "t")]
    with pytest.raises(SystemExit, match=r"^error: .*, or pass --lowercase or --no-lowercase$"):
        main(args)
    main([*args, flag])
    out = capsys.readouterr().out
    assert "8 pieces, 8 embedding rows" in out and "pad 0, cls 2, sep 3, unk 1, mask 4" in out
    [encoded] = load_tokenizer(str(tmp_path / "t")).encode_batch(["ab" if flag == "--lowercase" else "A b"])
    assert encoded == ids


def vocabulary_of(words):
    return ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[unused0]", "##a", ".", *words]


@pytest.mark.parametrize(
    ("words", "flag", "warnings"),
    [
        (["tea", "pan", "a"], "--lowercase", []),
        (["Tea", "Pan", "a", "A"], "--no-lowercase", []),
        (
            ["Tea", "Pan", "a"],
            "--lowercase",
            ["2 of the 3 pieces that start words (Tea, Pan); is the vocabulary"],
        ),
        (["über", "tea"], "--lowercase", ["1 of the 2 pieces that start words (über)", "strip_accents"]),
        (["über", "tea"], "--no-lowercase", ["no piece has a capital letter, and text is not lower-cased"]),
    ],
)
def test_a_vocabulary_of_the_wrong_letter_case_is_noticed(tmp_path, capsys, words, flag, warnings):
    (tmp_path / "vocab.txt").write_text("\n".join(vocabulary_of(words)) + "\n", encoding="utf-8")
    main(["--from", str(tmp_path / "vocab.txt"), "--out", str(tmp_path / "t"), flag])
    out = capsys.readouterr().out
    assert out.count("WARNING") == (1 if warnings else 0) and all(warning in out for warning in warnings), out


def test_a_vocabulary_with_accents_can_keep_them(tmp_path, capsys):
    (tmp_path / "vocab.txt").write_text("\n".join(vocabulary_of(["über"])) + "\n", encoding="utf-8-sig")
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": true, "strip_accents": false}')
    main(["--from", str(tmp_path), "--out", str(tmp_path / "t")])
    assert "WARNING" not in capsys.readouterr().out
    assert load_tokenizer(str(tmp_path / "t")).encode_batch(["Über"]) == [[8]]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{", r"tokenizer_config\.json: not valid JSON"),
        ('"a"', r"tokenizer_config\.json: got 'a', expected an object"),
        ('{"do_lower_case": "yes"}', "do_lower_case is 'yes', expected true or false"),
        ('{"do_lower_case": true, "mask_token": {"lstrip": true}}', None),
    ],
)
def test_odd_settings_beside_a_vocabulary(tmp_path, config, message):
    (tmp_path / "vocab.txt").write_text("\n".join(PIECES) + "\n")
    (tmp_path / "tokenizer_config.json").write_text(config)
    args = ["--from", str(tmp_path / "vocab.txt"), "--out", str(tmp_path / "t")]
    if message is None:
        main(args)
        return
    with pytest.raises(SystemExit, match=rf"^error: .*{message}"):
        main(args)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "expected --input and --vocab_size to train a tokenizer, or --from to adopt one"),
        (["--input", "a.txt"], "expected --input and --vocab_size"),
        (
            ["--from", "v", "--input", "a.txt", "--model_type", "bpe"],
            "--input, --model_type would train one; leave out either",
        ),
        (["--input", "a.txt", "--vocab_size", "9", "--no-lowercase"], "--lowercase goes with --from"),
        (["--input", "a.txt", "--add_words", "9"], "--add_words adds to a vocabulary: give it with --from"),
        (["--from", "v", "--add_words", "9"], "reads the words from a text: give it with --input"),
        (
            ["--from", "v", "--add_words", "9", "--input", "a.txt", "--vocab_size", "9"],
            "--vocab_size would train one; leave out either",
        ),
    ],
)
def test_flags_of_two_tasks(args, message, capsys):
    with pytest.raises(SystemExit):
        main([*args, "--out", "t"])
    assert message in capsys.readouterr().err


def test_help_shows_both_tasks(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    out = capsys.readouterr().out
    assert (
        "--from vocab.txt --lowercase --out" in out
        and "--input corpus.jsonl" in out
        and "(default: unigram)" in out
    )
