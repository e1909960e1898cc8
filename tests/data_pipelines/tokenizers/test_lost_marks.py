"""A tokenizer that strips accents also strips vowel signs and voicing marks: the reports say so."""

import unicodedata

import pytest

from data_pipelines.tokenizer import main
from support.small_corpus import write

HINDI = "में किताब पढ़ता हूँ और में लिखती थी"
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"मकतबदसलखढ", "##क", "##त", "##ब", "##द"]


def train(tmp_path, capsys, text, *flags):
    source = write(tmp_path / "c.jsonl", [text] * 30)
    args = ["--input", source, "--out", str(tmp_path / "t"), "--kind", "wordpiece", "--vocab_size"]
    with pytest.raises(SystemExit, match=r"the different characters of the text need at least \d+") as error:
        main([*args, "6", *flags])
    fewest = str(error.value).partition("at least ")[2].partition(" ")[0]
    main([*args, fewest, *flags])
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "word"),
    [
        pytest.param(HINDI, "में becomes म.", id="Hindi"),
        pytest.param("ที่นี่ แม่น้ำ น้ำ ที่นี่", "ที่นี่ becomes ทน.", id="Thai"),
        pytest.param("ガラス が 学生 が か", "が becomes か.", id="Japanese"),
        pytest.param("学" * 60 + "本が" + "学" * 30, "学本が" + "学" * 17, id="without spaces"),
        pytest.param("שָׁלוֹם shalom", "שָׁלוֹם becomes שלום.", id="Hebrew"),
    ],
)
@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_a_training_warns_with_the_commonest_word(tmp_path, capsys, text, word, form):
    out = train(tmp_path, capsys, unicodedata.normalize(form, text))
    warning = out.partition("WARNING: ")[2]
    assert unicodedata.normalize("NFC", word) in unicodedata.normalize("NFC", warning), out
    assert "% of the letters of the text lose a vowel sign or another mark" in warning
    assert "--no-strip_accents" in warning


@pytest.mark.parametrize(
    ("text", "flags"),
    [
        pytest.param(HINDI, ["--no-strip_accents"], id="kept"),
        pytest.param(HINDI, ["--no-lowercase"], id="cased"),
        pytest.param("Tämä silta на ёлке й ώ ϊ Việt Nam naïve", [], id="accents"),
        pytest.param("각 한국어 学生 中文 Thai", [], id="no marks"),
        pytest.param(HINDI[:2] + " word" * 100, [], id="few"),
    ],
)
def test_accents_and_few_marks_are_no_reason_to_warn(tmp_path, capsys, text, flags):
    assert "lose a vowel sign" not in train(tmp_path, capsys, text, *flags)


def test_an_adopted_vocabulary(tmp_path, capsys):
    (tmp_path / "vocab.txt").write_text("".join(f"{piece}\n" for piece in VOCABULARY), encoding="utf-8")
    adopting = ["--from", str(tmp_path / "vocab.txt")]
    main([*adopting, "--lowercase", "--out", str(tmp_path / "t")])
    out = capsys.readouterr().out
    [line] = [line for line in out.splitlines() if line.startswith("marks            ")]
    assert "में が becomes म か; no text was read" in line
    main([*adopting, "--no-lowercase", "--out", str(tmp_path / "u")])
    assert "marks   " not in capsys.readouterr().out
    source = write(tmp_path / "c.jsonl", ["मेंकतब में कितब में ☃"] * 9)
    words = ["--add_words", "1", "--input", source, "--out", str(tmp_path / "v")]
    main([*adopting, "--lowercase", *words])
    out = capsys.readouterr().out
    assert "में becomes म." in out and '{"strip_accents": false}' in out
    assert "no text was read" not in out and "of the characters are in words that become [UNK]" in out
