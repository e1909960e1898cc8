"""Rows and descriptions that are not those of a build: found when a dataset is opened or read, or by reading
all of it."""

import hashlib
import json
import re
import shutil

import numpy as np
import pytest

from data_pipelines.corpus_builder import build_corpus
from data_pipelines.corpus_settings import CorpusSettings
from data_pipelines.dataset_digests import check_all_rows
from data_pipelines.dataset_info import DatasetInfo, fingerprint_of, load_dataset_info
from data_pipelines.mixture import DatasetSource, make_mixture, make_sequential
from data_pipelines.row_checks import RowChecks
from support.small_corpus import build, replace_rows, rows_of, write_data

PAD, CLS, SEP, UNK, MASK = range(5)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A dataset with several files of rows of 32, of a vocabulary of 128."""
    root = write_data(tmp_path_factory.mktemp("bad_rows"))
    build(root, root / "corpus")
    return root / "corpus"


@pytest.fixture
def copy(built, tmp_path):
    shutil.copytree(built, tmp_path / "copy")
    return tmp_path / "copy"


def read_everything(directory, split="train"):
    mixture = make_sequential([DatasetSource(str(directory), split=split)])
    return mixture.read(*mixture.rows_at(0, mixture.num_rows))


def with_row(index, row):
    """A change of rows that replaces one."""

    def change(rows):
        rows[index] = row
        return rows

    return change


def with_id(index, place, value):
    def change(rows):
        rows[index, place] = value
        return rows

    return change


def without_last(rows):
    """The last [SEP] of the first row becomes padding."""
    rows[0, np.flatnonzero(rows[0])[-1]] = PAD
    return rows


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (with_id(0, 5, 128), r"row \d+ has the id 128, expected ids of the dataset's vocabulary, 0 to 127"),
        (with_id(-1, 31, 65535), r"row \d+ has the id 65535, expected ids"),
        (with_row(0, PAD), r"row \d+ has special ids alone \(0, 0, 0, 0, …\), expected text"),
        (with_row(-1, MASK), r"row \d+ has special ids alone \(4, 4, 4, 4, …\)"),
        (with_row(0, [CLS, SEP] * 16), r"row \d+ has special ids alone \(1, 2, 1, 2, …\)"),
        (with_id(0, 0, 9), r"row \d+ begins with the id 9 \(9, .*\), expected \[CLS\], 1"),
        (with_id(-1, 0, PAD), r"row \d+ begins with the id 0 \(0, .*\), expected \[CLS\], 1"),
        (without_last, r"row \d+ ends with the id \d+ before its padding, expected \[SEP\], 2"),
        (with_id(0, 31, MASK), r"row \d+ ends with the id 4 before its padding, expected \[SEP\], 2"),
        (lambda rows: rows[:-1], "Array|has|out of|range"),
        (lambda rows: np.concatenate([rows, rows[:1]]), r"it has \d+ rows, expected \d+"),
        (lambda rows: rows[:, :20], r"shape|length|Array"),
    ],
)
@pytest.mark.parametrize("split", ["train", "validation"])
def test_a_bad_row_at_the_end_of_a_file_is_found_when_the_dataset_is_opened(change, message, split, copy):
    name = replace_rows(copy, change, split)
    with pytest.raises(OSError, match=rf"cannot read .*{name}: (.|\n)*(copy it again or rebuild)") as error:
        make_sequential([DatasetSource(str(copy), split=split)])
    assert re.search(message, str(error.value))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (with_id(3, 1, 128), r"row 3 has the id 128, expected ids of the dataset's vocabulary, 0 to 127"),
        (with_id(3, 31, 5000), "row 3 has the id 5000"),
        (with_row(3, PAD), "row 3 has special ids alone"),
        (with_id(3, 0, 9), "row 3 begins with the id 9"),
        (with_row(3, [CLS, *[9] * 31]), r"row 3 ends with the id 9 before its padding, expected \[SEP\], 2"),
    ],
)
def test_a_bad_row_within_a_file_is_found_when_it_is_read(change, message, copy):
    name = replace_rows(copy, change)
    make_mixture([DatasetSource(str(copy))], seed=0)
    with pytest.raises(OSError, match=rf"cannot read .*{name}: {message}"):
        read_everything(copy)


def test_rows_that_a_build_can_make_pass(copy, built):
    unknown = np.array([CLS, *[UNK] * 30, SEP])
    empty_start = np.array([CLS, SEP, CLS, 9, SEP, *[PAD] * 27])
    replace_rows(copy, with_row(2, unknown))
    replace_rows(copy, with_row(3, empty_start))
    assert (read_everything(copy)[2] == unknown).all()
    assert (read_everything(built) == rows_of(built)).all()


def test_negative_ids_and_rows_too_short_for_text():
    info = DatasetInfo("", "", dict(pad=0, cls=1, sep=2, unk=3, mask=4), 80, 3, "contiguous", {}, {})
    checks = RowChecks(info)
    with pytest.raises(ValueError, match=r"^row 8 has the id -1, expected"):
        checks.check(np.array([[1, 5, 2], [1, -1, 2]], np.int32), [7, 8])
    checks.check(np.array([[1, 2, 2]], np.int32), [0])  # documents of one token, joined
    checks.check(np.zeros((0, 3), np.int32), [])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"special_ids": {"pad": 0, "cls": 1, "sep": 2, "unk": 3, "mask": 99999}}, "below vocab_size=128"),
        ({"special_ids": {"pad": 0, "cls": 1, "sep": 2, "unk": 3, "mask": 128}}, "below vocab_size=128"),
        ({"special_ids": {"pad": -1, "cls": 1, "sep": 2, "unk": 3, "mask": 4}}, "expected different ids of"),
        ({"special_ids": {"pad": 0, "cls": 0, "sep": 2, "unk": 3, "mask": 4}}, "expected different ids of"),
        ({"special_ids": {"pad": 0, "cls": 1, "sep": 2, "unk": 3}}, "no 'mask' at special_ids"),
        (
            {"special_ids": {"pad": 0, "cls": 1, "sep": 2, "unk": 3, "mask": "4"}},
            "got '4' at special_ids.mask",
        ),
        (
            {"special_ids": {"pad": 0, "cls": 1, "sep": 2, "unk": 3, "mask": True}},
            "got True at special_ids.mask",
        ),
        ({"special_ids": [0, 1, 2, 3, 4]}, "got a list at special_ids, expected an object"),
        ({"special_ids": {"pad": 7, "cls": 1, "sep": 2, "unk": 3, "mask": 4}}, "the one beside it has"),
        ({"tokenizer_fingerprint": "0" * 64}, "was made with a tokenizer of fingerprint 000"),
        ({"vocab_size": 0}, "got vocab_size=0 and sequence_length=32, expected numbers of 1 or more"),
        ({"vocab_size": "80"}, "got '80' at vocab_size, expected a whole number"),
        ({"sequence_length": 2.5}, "got 2.5 at sequence_length, expected a whole number"),
        ({"sequence_length": 64}, "corpus.json records rows of 64 ids, features.json rows of 32"),
    ],
)
def test_a_description_that_its_rows_do_not_fit(changes, message, copy):
    path = copy / "corpus.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(ValueError, match=message):
        make_sequential([DatasetSource(str(copy))])


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("dataset_info.json", lambda text: "{", "is missing or damaged: "),
        ("dataset_info.json", None, "is missing or damaged: "),
        (
            "dataset_info.json",
            lambda text: re.sub(r'("shardLengths": \[\s*")', r"\g<1>9", text),
            "records",
        ),
        ("features.json", lambda text: "{", r"features\.json: not valid JSON "),
        ("features.json", None, "is missing or damaged: "),
        ("features.json", lambda text: text.replace("features_dict", "os_system"), "is missing or damaged"),
        (
            "corpus.json",
            lambda text: re.sub(r'"shards": {[^}]*}', '"shards": {}', text),
            "files and rows {},",
        ),
    ],
)
def test_descriptions_that_are_damaged_or_differ(name, change, message, copy):
    text = (copy / name).read_text()
    (copy / name).unlink()
    if change is not None:
        (copy / name).write_text(change(text))
        assert change(text) != text
    with pytest.raises((OSError, ValueError), match=rf"copy.*{message}.* the dataset"):
        make_sequential([DatasetSource(str(copy))])


def test_all_rows_of_a_build_have_the_recorded_digests(built, copy):
    read = []
    info = load_dataset_info(str(built))
    total = sum(split["rows"] for split in info.splits.values())
    assert check_all_rows(str(built), read.append) == total == sum(read)
    assert set(info.splits["train"]["digests"]) == set(info.splits["train"]["shards"])
    without_digests(copy)
    assert check_all_rows(str(copy)) == total


def without_digests(directory):
    """corpus.json as an earlier version wrote it."""
    path = directory / "corpus.json"
    info = json.loads(path.read_text())
    for split in info["splits"].values():
        split.pop("digests")
    path.write_text(json.dumps(info))


@pytest.mark.parametrize("split", ["train", "validation"])
def test_another_whole_file_is_found_by_reading_all_rows(split, copy):
    name = replace_rows(copy, lambda rows: rows[::-1], split)
    read_everything(copy, split)  # nothing else can tell
    with pytest.raises(
        OSError, match=rf"the rows of {name} are not those that were built: .*corpus\.json rec"
    ):
        check_all_rows(str(copy))
    without_digests(copy)
    with pytest.raises(OSError, match=r"copy: its rows are not those that were built: their fingerprint is"):
        check_all_rows(str(copy))


def test_rows_of_another_file_are_found(copy):
    info = load_dataset_info(str(copy))
    name = next(iter(info.splits["train"]["shards"]))
    first, second = info.splits["train"]["rows_by_shard"][:2]
    others = rows_of(copy)[first : first + min(first, second)]
    replace_rows(copy, lambda rows: np.concatenate([others, rows[len(others) :]]))
    with pytest.raises(OSError, match=rf"the rows of {name} are not those"):
        check_all_rows(str(copy))


def with_empty_files(directory, places, *, is_recorded):
    """corpus.json of a dataset whose text gave no row at some places of its splits."""
    info = load_dataset_info(str(directory))
    digests = {split: list(described["digests"].values()) for split, described in info.splits.items()}
    for split, numbers in places.items():
        for number in numbers:
            digests[split].insert(number, hashlib.sha256(b"").hexdigest())
    own = info.tokenizer_fingerprint, info.sequence_length, info.packing
    splits = {split: dict(described) for split, described in info.splits.items()}
    for split, described in splits.items():
        described.pop("without_rows", None)
        if is_recorded:
            described["without_rows"] = places.get(split, [])
    path = directory / "corpus.json"
    changes = {"fingerprint": fingerprint_of(*own, digests), "splits": splits}
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("is_recorded", [True, False])
@pytest.mark.parametrize(
    "places", [{}, {"train": [1]}, {"train": [0, 1, 4], "validation": [0]}, {"validation": [0, 1]}]
)
def test_text_without_rows_is_in_the_fingerprint(places, is_recorded, copy):
    """A chunk of text that gave no row: its digest counts, but the finished dataset leaves it out."""
    with_empty_files(copy, places, is_recorded=is_recorded)
    check_all_rows(str(copy))
    if not is_recorded:
        without_digests(copy)  # of an earlier version still
        check_all_rows(str(copy))
    replace_rows(copy, lambda rows: rows[::-1])
    with pytest.raises(OSError, match="are not those that were built"):
        check_all_rows(str(copy))


def test_more_text_without_rows_than_can_be_guessed(copy):
    with_empty_files(copy, {"train": range(40)}, is_recorded=False)
    check_all_rows(str(copy))  # by the digests of the files
    with_empty_files(copy, {"train": [*range(40)]}, is_recorded=True)
    check_all_rows(str(copy))


@pytest.mark.parametrize("split", ["train", "validation"])
@pytest.mark.parametrize("takes_all", [False, True])
def test_a_file_without_a_digest_is_found_by_the_fingerprint(split, takes_all, copy):
    with_empty_files(copy, {}, is_recorded=False)
    name = replace_rows(copy, lambda rows: rows[::-1], split)
    path = copy / "corpus.json"
    info = json.loads(path.read_text())
    digests = info["splits"][split]["digests"]
    digests.pop(name)
    info["splits"][split]["digests"] = {} if takes_all else digests
    path.write_text(json.dumps(info))
    with pytest.raises(OSError, match="its rows are not those that were built: their fingerprint is"):
        check_all_rows(str(copy))


def test_a_build_records_text_without_rows(tmp_path, built):
    """Text that the tokenizer makes nothing of."""
    nothing = "▁" * 12  # what SentencePiece writes for a space
    texts = [nothing, "the cat sat on the mat", nothing, nothing, "the dog sat on the hill", nothing]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    (tmp_path / "b.txt").write_text(texts[1])
    settings = CorpusSettings(
        train=[str(tmp_path / "a.jsonl")],
        validation=[str(tmp_path / "b.txt")],
        tokenizer=str(built / "tokenizer"),
        sequence_length=32,
        packing="documents",
        chunk_chars=10,
    )
    splits = build_corpus(str(tmp_path / "out"), settings).splits
    assert splits["train"]["rows"] == 2
    assert (splits["train"]["without_rows"], splits["validation"]["without_rows"]) == ([0, 2, 3, 5], [])
    check_all_rows(str(tmp_path / "out"))
