"""The command: what is made dirty becomes clean again, with the same bytes however it is run."""

import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest

from data_pipelines import clean as command
from data_pipelines.cleaning import builder, pieces
from data_pipelines.cleaning.builder import clean
from data_pipelines.cleaning.settings import CleaningSettings
from data_pipelines.documents import PIECE_OF, read_documents, read_pieces
from support.dirty_corpus import CLEAN, make_dirty, read_results, scores, write_dirty, write_texts
from support.plain_texts import english_documents, german_documents


@pytest.fixture(scope="module")
def dirty(tmp_path_factory):
    """A dirty corpus in three files, what each document is, and its settings."""
    root = tmp_path_factory.mktemp("dirty")
    texts = english_documents(100, size=6)
    evaluation = write_texts(root / "evaluation.jsonl", texts[90:])
    made = make_dirty(texts[:90], texts[90:], german_documents(20), share=0.2, edits=0.01)
    paths, places = write_dirty(made, root / "corpus")
    return places, {
        "input": paths,
        "languages": ("en",),
        "decontaminate": (evaluation,),
        "piece_chars": 20_000,
    }


@pytest.fixture(scope="module")
def cleaned(dirty, tmp_path_factory):
    """The directory of the cleaned corpus."""
    out = tmp_path_factory.mktemp("cleaned") / "out"
    clean(str(out), CleaningSettings(**dirty[1]), 1)
    return out


def bytes_of(directory):
    return {path.name: path.read_bytes() for path in Path(directory).iterdir()}


def test_precision_and_recall_of_every_filter(dirty, cleaned):
    """The bounds are what they reach here; data_pipelines/cleaning/README.md has a larger corpus."""
    results, lost = scores(cleaned, dirty[0])
    for name, (number, precision, recall, gone) in results.items():
        assert number >= 5 and precision >= 0.95, (name, number, precision)
        assert gone >= 0.95, (name, gone)
        # Other filters find some first: lists of numbers are no English, short lines have few words.
        least = {"gopher_quality": 0.3, "c4": 0.6}.get(name, 0.9)
        assert recall >= least, (name, recall)
    assert lost <= 0.02


def test_every_document_is_kept_or_dropped_with_a_reason(dirty, cleaned):
    places, _ = dirty
    kept, dropped = read_results(cleaned, "kept"), read_results(cleaned, "dropped")
    found = [(record["source"], record["document"]) for record in (*kept, *dropped)]
    assert sorted(found) == sorted(places)
    assert all(record["reason"] and record["value"] for record in dropped)
    counts = json.loads((cleaned / "cleaning.json").read_text())["counts"]
    assert counts["documents"] == len(places) and counts["kept"] == len(kept)
    assert sum(counts["dropped"].values()) == len(dropped)
    assert sum(counts["removed_lines"].values()) == len(read_results(cleaned, "removed_lines"))
    untouched = [record for record in kept if places[record["source"], record["document"]].part == CLEAN]
    assert untouched and all(
        record["text"] == places[record["source"], record["document"]].text for record in untouched
    )


def test_processes_make_no_difference(dirty, cleaned, tmp_path):
    clean(str(tmp_path / "out"), CleaningSettings(**dirty[1]), 2)
    assert bytes_of(tmp_path / "out") == bytes_of(cleaned)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_interrupted_cleaning_resumes(dirty, cleaned, tmp_path, monkeypatch):
    done, original = [], pieces.clean_piece

    def dies_at_the_third(piece):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(piece.path)
        return original(piece)

    monkeypatch.setattr(builder, "clean_piece", dies_at_the_third)
    settings = CleaningSettings(**dirty[1])
    with pytest.raises(KeyboardInterrupt):
        clean(str(tmp_path / "out"), settings)
    assert not (tmp_path / "out").exists()
    with pytest.raises(FileExistsError, match=r"other settings \(similarity: it has 0.7, you gave 0.8\)"):
        clean(str(tmp_path / "out"), CleaningSettings(**dirty[1], similarity=0.8))
    again = []
    monkeypatch.setattr(builder, "clean_piece", lambda piece: again.append(piece.path) or original(piece))
    clean(str(tmp_path / "out"), settings)
    assert len(done) == 2 and again and not set(done) & set(again)
    assert bytes_of(tmp_path / "out") == bytes_of(cleaned)
    assert clean(str(tmp_path / "out"), settings)["kept"] == len(read_results(cleaned, "kept"))
    with pytest.raises(FileExistsError, match="holds a cleaning with other settings"):
        clean(str(tmp_path / "out"), CleaningSettings(**dirty[1], rules=("c4",)))


def test_documents_that_moved_have_their_new_numbers(tmp_path, monkeypatch):
    """A piece whose texts are the same is rebuilt if they are other documents of the source now."""
    first, second, third = english_documents(3, seed=2)
    source = write_texts(tmp_path / "a.jsonl", [first, second, third])
    settings = CleaningSettings(input=(source,), piece_chars=len(first) + 1)  # two documents, then one
    with monkeypatch.context() as patch:
        patch.setattr(builder, "find_duplicates", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            clean(str(tmp_path / "out"), settings)
    write_texts(tmp_path / "a.jsonl", [first + second, third])
    clean(str(tmp_path / "out"), settings)
    assert [record["document"] for record in read_results(tmp_path / "out", "kept")] == [1, 2]


def test_the_record_is_the_line_of_the_source(tmp_path):
    """Lines without text count, and if they go, a piece whose texts are the same is rebuilt."""
    prose = english_documents(4, seed=2)
    texts = [
        prose[0],
        "",
        None,
        "Too short.",
        prose[1] + "\nHome Contact Login",
        prose[2],
        prose[0],
        prose[3],
    ]
    source = write_texts(tmp_path / "a.jsonl", texts)
    settings = CleaningSettings(input=(source,), piece_chars=len(prose[0]) + 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builder, "find_duplicates", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            clean(str(tmp_path / "out"), settings)
    write_texts(tmp_path / "a.jsonl", texts[:1] + texts[2:])
    clean(str(tmp_path / "out"), settings)
    places = {
        kind: [(one["record"], one["document"]) for one in read_results(tmp_path / "out", kind)]
        for kind in ("kept", "dropped", "removed_lines")
    }
    assert places == {
        "kept": [(1, 1), (4, 3), (5, 4), (7, 6)],
        "dropped": [(3, 2), (6, 5)],
        "removed_lines": [(4, 3)],
    }
    lines = Path(source).read_text().splitlines()
    for one in read_results(tmp_path / "out", "kept"):
        assert json.loads(lines[one["record"] - 1])["text"].startswith(one["text"])


def test_pieces_of_a_long_document_are_marked(tmp_path):
    """With the digest of its text, so that the corpus builder keeps them together."""
    long = "word " * 299_999 + "word"
    source = write_texts(tmp_path / "a.jsonl", ["Short.", long])
    clean(str(tmp_path / "out"), CleaningSettings(input=(source,), rules=("none",), duplicates="none"))
    short, *kept = read_results(tmp_path / "out", "kept")
    assert " ".join(one["text"] for one in kept) == long and len(kept) == 2
    assert [one[PIECE_OF] for one in kept] == [hashlib.sha256(long.encode()).hexdigest()] * 2
    assert PIECE_OF not in short
    assert {piece.piece_of for piece in read_pieces([str(tmp_path / "out" / "kept-00000.jsonl")])} == {
        "",
        kept[0][PIECE_OF],
    }


@pytest.mark.parametrize("num_words", [8, 12, 13, 14, 15, 20])
def test_a_whole_evaluation_text_is_dropped_with_too_few_places(num_words, tmp_path):
    """A text of 13 words is one place, and can never be three. A part of a longer one is no whole text."""
    words = [f"word{n}" for n in range(num_words)]
    texts = [f"It says: {' '.join(some)} and ends." for some in (words, words[:-1][:14])]
    source = write_texts(tmp_path / "a.jsonl", texts)
    evaluation = write_texts(tmp_path / "test.jsonl", [" ".join(words)])
    chosen = {"rules": ("none",), "duplicates": "none", "decontaminate": (evaluation,), "min_shared": 3}
    counts = clean(str(tmp_path / "out"), CleaningSettings(input=(source,), **chosen))
    assert counts["dropped"] == {"contamination": 1}
    assert [one["document"] for one in read_results(tmp_path / "out", "dropped")] == [1]


def test_lines_of_duplicates_are_counted_once(tmp_path):
    text = english_documents(1)[0] + "\nHome Contact Login"
    source = write_texts(tmp_path / "a.jsonl", [text, text])
    counts = clean(str(tmp_path / "out"), CleaningSettings(input=(source,)))
    assert counts["dropped"] == {"exact_duplicate": 1}
    assert counts["removed_lines"] == {"c4_line_min_end_marks": 1}
    assert [record["text"] for record in read_results(tmp_path / "out", "removed_lines")] == [
        "Home Contact Login"
    ]
    [dropped] = read_results(tmp_path / "out", "dropped")
    assert dropped["duplicate_of"] == {"source": source, "document": 1}


def test_options_change_what_is_kept(tmp_path, monkeypatch, capsys):
    prose = english_documents(3)
    texts = [
        prose[0].replace("the", "thÃ©", 1) + " Write to jo@example.org.",
        f"{prose[1]} This is a frobnicated sentence.",
        "Too short.",
        "x = {1: 2}",
    ]
    source, words = write_texts(tmp_path / "a.jsonl", texts), tmp_path / "words.txt"
    words.write_text("Frobnicated\n")
    out = str(tmp_path / "out")
    flags = ["--repair_unicode", "--mask", "email", "--bad_words", str(words), "--num_processes=1"]
    bounds = ["--set", "gopher_min_words=2", "gopher_min_stop_words=off", "c4_min_sentences=1"]
    bounds.append("c4_line_min_words=2")
    command.main(["--input", source, "--out", out, *flags, *bounds])
    printed = capsys.readouterr().out
    assert "4 documents read, 2 kept (50.0%)" in printed
    assert "1 documents dropped: c4_bad_words" in printed and "1 masked email" in printed
    kept = [record["text"] for record in read_results(out, "kept")]
    assert "thé" in kept[0] and kept[0].endswith("Write to |||EMAIL_ADDRESS|||.") and kept[1] == "Too short."
    assert [record["reason"] for record in read_results(out, "dropped")] == [
        "c4_bad_words",
        "gopher_min_mean_word_length",
    ]
    shutil.rmtree(out)
    command.main(["--input", source, "--out", out, "--rules", "none", "--num_processes=1"])
    assert list(read_documents(sorted(map(str, Path(out).glob("kept-*"))))) == texts


def test_the_report_shows_hostile_text_as_text(tmp_path):
    hostile = "<script>alert(1)</script>\n# Title\n```\n\u202egnirts\x1b[31m " + "very long " * 200
    source = write_texts(tmp_path / "a.jsonl", [hostile])
    clean(str(tmp_path / "out"), CleaningSettings(input=(source,)))
    report = (tmp_path / "out" / "report.md").read_text()
    for part in ("<script>", "# Title", "```"):
        lines = [line for line in report.splitlines() if part in line]
        assert lines and all(line.startswith("    ") for line in lines)
    assert "\\u202e" in report and "\\u001b" in report and "\u202e" not in report and "\x1b" not in report
    assert len(report) < 3000


def test_the_report_masks_what_was_dropped(tmp_path):
    # The second is cut within the address.
    source = write_texts(
        tmp_path / "a.jsonl", ["Too short: jo@example.org", "- " * 142 + "jo@example.organic"]
    )
    clean(str(tmp_path / "out"), CleaningSettings(input=(source,), mask=("email",)))
    report = (tmp_path / "out" / "report.md").read_text()
    assert (
        "Too short: |||EMAIL_ADDRESS|||" in report and "- - |||EMAIL_ADDR" in report and "jo@" not in report
    )


def test_a_name_that_is_not_utf8_and_texts_without_words(tmp_path):
    """Texts without words are alike only if they are equal."""
    source = os.fsdecode(os.fsencode(tmp_path) + b"/\xff.jsonl")
    write_texts(Path(source), ["!!! ???", "\U0001f600", "… —", "!!! ???"])
    counts = clean(str(tmp_path / "out"), CleaningSettings(input=(source,), rules=("none",)))
    assert counts["dropped"] == {"exact_duplicate": 1} and counts["kept"] == 3
    [dropped] = read_results(tmp_path / "out", "dropped")
    assert dropped["duplicate_of"] == {"source": f"{tmp_path}/\ufffd.jsonl", "document": 1}


def test_short_evaluation_texts_and_a_second_call_are_told(tmp_path, capsys):
    source = write_texts(tmp_path / "a.jsonl", english_documents(2))
    evaluation = write_texts(tmp_path / "e.jsonl", ["too short", *english_documents(3)[2:]])
    flags = ["--input", source, "--out", str(tmp_path / "out"), "--decontaminate", evaluation]
    command.main([*flags, "--num_processes=1"])
    printed = capsys.readouterr().out
    assert "1 evaluation texts are too short" in printed and "already" not in printed
    assert "1 evaluation texts are too short" in (tmp_path / "out" / "report.md").read_text()
    command.main([*flags, "--num_processes=1"])
    assert "holds this cleaning already; nothing was read" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--set", "gopher_words=3"], "--set: got 'gopher_words=3', expected NAME=NUMBER or NAME=off"),
        (["--set", "gopher_min_words=many"], "--set: got 'gopher_min_words=many'"),
        (["--languages", "english"], "--languages: got 'english', expected of ace, af, am"),
        (["--similarity", "0.1"], "--similarity: got 0.1, expected 0.3 to 1"),
        (["--phone_regions", "US"], "--phone_regions: got it without --mask phone"),
        (["--input", "missing.jsonl"], "missing.jsonl: does not exist"),
        (["--bad_words", "missing.txt"], "missing.txt: No such file"),
        (["--decontaminate", "missing.txt"], "missing.txt: does not exist"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_wrong_flags_are_errors_before_anything_is_written(tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    source = write_texts(tmp_path / "a.jsonl", ["A text."])
    with pytest.raises(SystemExit) as raised:
        command.main(["--input", source, "--out", "out", "--num_processes=1", *words])
    assert message in str(raised.value)
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]


def test_without_documents_it_is_an_error(tmp_path):
    (tmp_path / "a.jsonl").write_text("")
    with pytest.raises(ValueError, match=r"--input: got no documents from .*a\.jsonl, expected at least one"):
        clean(str(tmp_path / "out"), CleaningSettings(input=(str(tmp_path / "a.jsonl"),)))
