"""Files of minimal pairs: BLiMP's JSON lines, other files with the two fields, and what is wrong with one."""

import gzip
import json

import pytest

from data_pipelines.tasks.minimal_pairs import MinimalPair, find_files, load_pairs, read_pairs

BLIMP = {
    "sentence_good": "These casseroles disgust Kayla.",
    "sentence_bad": "These casseroles disgusts Kayla.",
    "field": "morphology",
    "linguistics_term": "subject_verb_agreement",
    "UID": "regular_plural_subject_verb_agreement_1",
    "simple_LM_method": True,
    "pairID": "1",
}
GOOD, BAD = BLIMP["sentence_good"], BLIMP["sentence_bad"]


def write(path, *records):
    text = "".join(json.dumps(record) + "\n" for record in records)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return str(path)


def test_a_line_of_blimp_and_the_two_fields_alone(tmp_path):
    path = write(tmp_path / "agreement.jsonl.gz", BLIMP, {"sentence_good": GOOD, "sentence_bad": BAD})
    names = BLIMP["UID"], "morphology", "subject_verb_agreement"
    assert read_pairs(path) == [
        MinimalPair(f"{path}:1", GOOD, BAD, *names),
        MinimalPair(f"{path}:2", GOOD, BAD, "agreement", "", ""),
    ]


@pytest.mark.parametrize(
    ("name", "text", "places"),
    [
        ("a.csv", f'UID,sentence_bad,sentence_good\nu,"{BAD}","{GOOD}"\n', ["2"]),
        ("a.tsv", f"sentence_good\tUID\tsentence_bad\n{GOOD}\tu\t{BAD}\n", ["2"]),
        ("a.json", json.dumps([{"sentence_good": GOOD, "sentence_bad": BAD, "UID": "u"}]), [" pair 1"]),
        ("a.json", json.dumps({"sentence_good": GOOD, "sentence_bad": BAD, "UID": "u"}), ["1"]),
    ],
)
def test_tables_and_lists_are_read_as_well(name, text, places, tmp_path):
    (tmp_path / name).write_text(text)
    path = str(tmp_path / name)
    assert read_pairs(path) == [MinimalPair(f"{path}:{place}", GOOD, BAD, "u", "", "") for place in places]


def test_the_first_pairs_of_each_phenomenon_are_taken(tmp_path):
    pair = lambda number, uid: {"sentence_good": f"good {number}", "sentence_bad": "bad", "UID": uid}
    write(tmp_path / "b.jsonl", *(pair(number, "xy"[number % 2]) for number in range(6)))
    write(tmp_path / "a.jsonl", pair(9, "x"))
    (tmp_path / "README.md").write_text("no pairs")
    places = [str(tmp_path), str(tmp_path / "a.jsonl")]
    assert find_files(places) == [str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl")]
    chosen = load_pairs(places, 2)
    assert [[pair.good for pair in file.pairs] for file in chosen] == [
        ["good 9"],
        ["good 0", "good 1", "good 3"],
    ]
    assert [len(file.pairs) for file in load_pairs(places, 0)] == [1, 6]


def test_files_with_one_name_are_several_phenomena(tmp_path):
    pair = {"sentence_good": GOOD, "sentence_bad": BAD}
    names = ["en/agreement.jsonl", "de/agreement.jsonl", "de/case.csv", "de/case.jsonl", "de/order.json"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write(tmp_path / name, pair)
    (tmp_path / "de" / "case.csv").write_text(f"sentence_good,sentence_bad\n{GOOD},{BAD}\n")
    files = load_pairs([str(tmp_path / "en"), str(tmp_path / "de")], 0)
    assert [file.pairs[0].phenomenon for file in files] == [
        "en/agreement",
        "de/agreement",
        "case.csv",
        "case.jsonl",
        "order",
    ]


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ("{", r"x\.jsonl:2: not valid JSON"),
        ("[]", r"x\.jsonl:2: got a list, expected an object with the field 'sentence_good'"),
        (
            {"sentence_good": GOOD, "UID": "u"},
            r"x\.jsonl:2: no 'sentence_bad', found 'sentence_good', 'UID'\.",
        ),
        (BLIMP | {"sentence_bad": " "}, r"x\.jsonl:2: 'sentence_bad' is blank, expected a sentence"),
        (
            BLIMP | {"sentence_good": ["a"]},
            r"x\.jsonl:2: 'sentence_good' is a list, expected a string; correct the line",
        ),
        (BLIMP | {"sentence_good": None}, r"x\.jsonl:2: 'sentence_good' is blank, expected a sentence"),
        (BLIMP | {"sentence_good": "\ud800"}, r"x\.jsonl:2: 'sentence_good' is not valid UTF-8"),
        (BLIMP | {"UID": {}}, r"x\.jsonl:2: 'UID' is an object, expected a name"),
        (
            BLIMP | {"field": "syntax"},
            r"x\.jsonl:2: got the field 'syntax' of 'reg.*', expected 'morphology' as in .*x\.jsonl:1",
        ),
    ],
)
def test_a_wrong_line_is_named(second, message, tmp_path):
    text = second if isinstance(second, str) else json.dumps(second)
    (tmp_path / "x.jsonl").write_text(f"{json.dumps(BLIMP)}\n{text}\n")
    with pytest.raises(ValueError, match=message):
        load_pairs([str(tmp_path / "x.jsonl")], 0)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.jsonl", "\n", r"a\.jsonl: got no pair in it"),
        ("a.csv", "sentence_good,bad\nx,y\n", r"a\.csv:1: no 'sentence_bad', found 'sentence_good', 'bad'"),
        ("a.tsv", "sentence_good\tsentence_bad\nx\n", r"a\.tsv:2: got 1 columns, expected 2"),
        ("a.csv", "", r"a\.csv:1: no 'sentence_good' and no 'sentence_bad', found no fields"),
        ("a.tar.gz", "", r"a\.tar\.gz: got a file that ends in '\.tar', expected .*Unpack an archive first"),
    ],
)
def test_a_wrong_file_is_named(name, text, message, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        load_pairs([str(tmp_path / name)], 0)


def test_a_missing_file_and_a_directory_without_pairs_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing: does not exist, expected a file or a directory"):
        load_pairs([str(tmp_path / "nothing")], 0)
    with pytest.raises(FileNotFoundError, match=r"got no file in it that ends in \.jsonl or"):
        load_pairs([str(tmp_path)], 0)
