"""JSON from elsewhere or damaged: a value of the expected form, or one line with the name of the file."""

import json
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines import json_files
from data_pipelines.dataset_info import INFO_FILE, parse_dataset_info, read_fingerprint
from data_pipelines.json_files import Maybe, check_form, parse_json, read_json, read_json_lines
from data_pipelines.tokenizers.directory import read_meta

FORM = {"config": {"name": str, "size": int, "rate": float, "on": bool}, "rows": Maybe([{"id": int}])}
GOOD = {"config": {"name": "a", "size": 1, "rate": 1, "on": True}, "more": None}
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda child: st.lists(child, max_size=3) | st.dictionaries(st.text(max_size=5), child, max_size=3),
    max_leaves=12,
)


def write(path, data):
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def test_a_value_of_the_form_is_returned_whole(tmp_path):
    path = write(tmp_path / "a.json", b"\xef\xbb\xbf" + json.dumps(GOOD | {"rows": [{"id": 3}]}).encode())
    assert read_json(path, FORM) == GOOD | {"rows": [{"id": 3}]}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("", r"not valid JSON \(Expecting value: line 1"),
        ("{", "not valid JSON"),
        (b'{"a": "\xe9"}', "not valid JSON .*utf-8"),
        (bytes(range(256)), "not valid JSON"),
        ("9" * 6000, "not valid JSON .*digits"),
        ("[" * 200_000 + "]" * 200_000, "nested more than 100 deep"),
        ('{"a": ' * 100_000, "not valid JSON"),
        ("[" * 101 + "]" * 101, "nested more than 100 deep"),
        ("[]", "got a list, expected an object"),
        ("null", "got None, expected an object"),
        ("{}", "no 'config', found no keys"),
        ('{"config": 5}', "got 5 at config, expected an object"),
        (
            json.dumps({"config": GOOD["config"] | {"size": "128"}}),
            "got '128' at config.size, expected a whole",
        ),
        (
            json.dumps({"config": GOOD["config"] | {"size": True}}),
            "got True at config.size, expected a whole",
        ),
        (json.dumps({"config": GOOD["config"] | {"size": 1.0}}), "got 1.0 at config.size, expected a whole"),
        (
            json.dumps({"config": GOOD["config"] | {"rate": 10**400}}),
            "got 1000.*at config.rate, expected a num",
        ),
        (json.dumps({"config": GOOD["config"] | {"on": 1}}), "got 1 at config.on, expected true or false"),
        (
            json.dumps(GOOD | {"rows": [{"id": 1}, {"id": []}]}),
            r"got a list at rows\[1\].id, expected a whole",
        ),
        (json.dumps(GOOD | {"rows": [{"jd": 1}]}), r"no 'id' at rows\[0\], found 'jd'"),
    ],
)
def test_another_form_is_one_line_with_the_files_name(data, message, tmp_path):
    path = write(tmp_path / "a.json", data)
    with pytest.raises(ValueError, match=message) as caught:
        read_json(path, FORM, advice="Copy it again.")
    text = str(caught.value)
    assert text.startswith(f"{path}: ") and text.endswith(". Copy it again.") and "\n" not in text
    assert len(text) < 300 + len(str(path))


def test_a_hundred_levels_are_read(tmp_path):
    assert read_json(write(tmp_path / "a.json", "[" * 100 + "]" * 100)) is not None


def test_files_of_other_kinds(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/zero"):
        with pytest.raises(ValueError, match="got a pipe or a device"):
            read_json(path)
    with pytest.raises(IsADirectoryError, match=str(tmp_path)):
        read_json(tmp_path)
    with pytest.raises(FileNotFoundError, match="absent"):
        read_json(tmp_path / "absent.json")
    with pytest.raises(ValueError, match=r"a\.json: got more than 9 bytes"):
        read_json(write(tmp_path / "a.json", "[1, 2, 3, 4]"), max_bytes=9)


def test_lines_that_are_no_json_are_left_out(tmp_path):
    path = write(tmp_path / "a.jsonl", b'{"step": 1}\n[\n\xff\n{"step": 2}\n{"st')
    assert read_json_lines(path, {"step": int}) == [{"step": 1}, {"step": 2}]
    assert read_json_lines(tmp_path / "absent", dict) == []


@pytest.mark.parametrize("line", [b"[]", b'{"step": "x"}', b"{}", b'{"step": null}', b"3"])
def test_a_line_of_another_form_is_named(line, tmp_path):
    path = write(tmp_path / "a.jsonl", b'{"step": 1}\n{"st\n' + line)
    with pytest.raises(ValueError, match=r"a\.jsonl, line 3: .* Cut it\."):
        read_json_lines(path, {"step": int}, advice="Cut it.")


def test_what_code_raises_of_other_values_has_the_files_name():
    for work in (lambda: {}["a"], lambda: [][0], lambda: 5 + "a", lambda: None.keys()):
        with (
            pytest.raises(ValueError, match=r"^a\.json: values of another form than expected"),
            json_files.misread("a.json"),
        ):
            work()


@settings(max_examples=150, deadline=None)
@given(ANY_JSON)
def test_any_json_has_the_form_or_is_an_error(value):
    text = json.dumps(value)
    try:
        found = parse_json(text, FORM, "a.json")
    except ValueError as error:
        assert str(error).startswith("a.json: ") and "\n" not in str(error)
    else:
        assert isinstance(found["config"]["size"], int)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_a_value_or_an_error(data):
    try:
        parse_json(data, object, "a.json")
    except ValueError as error:
        assert str(error).startswith("a.json: ")


SPLIT = {"rows": 1, "rows_by_shard": [1], "shards": {"a": 10}, "tokens": 1, "documents": 1}
SPLIT |= {"text_tokens": 1, "dropped_text_tokens": 0}
INFO = {
    "fingerprint": "f",
    "tokenizer_fingerprint": "t",
    "special_ids": {"pad": 0, "cls": 1, "sep": 2, "unk": 3, "mask": 4},
    "vocab_size": 128,
    "sequence_length": 32,
    "packing": "documents",
    "sources": {},
    "splits": {"train": SPLIT},
}


@settings(max_examples=150, deadline=None)
@given(st.sampled_from([*INFO, "another"]), ANY_JSON)
def test_any_value_in_corpus_json_is_read_or_an_error(key, value):
    try:
        info = parse_dataset_info(json.dumps(INFO | {key: value}), "corpus.json")
    except ValueError as error:
        assert str(error).startswith("corpus.json: ")
    else:
        check_form(info.special_ids, {str: int}, "special ids")


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "a/b", "..", "", "a\nb", "C:\\x"])
def test_shards_lie_in_the_dataset(name):
    splits = {"train": INFO["splits"]["train"] | {"shards": {name: 1}}}
    with pytest.raises(ValueError, match=r"corpus\.json: names the file .*expected the plain name of a file"):
        parse_dataset_info(json.dumps(INFO | {"splits": splits}), "corpus.json")


@pytest.mark.parametrize("key", ["rows_by_shard", "dropped_text_tokens", "digests", "by_source"])
def test_entries_of_a_split_have_their_form(key):
    splits = {"train": SPLIT | {key: "another"}}
    with pytest.raises(ValueError, match=rf"^corpus\.json: got 'another' at splits\.train\.{key}, expected"):
        parse_dataset_info(json.dumps(INFO | {"splits": splits}), "corpus.json")


def test_the_fingerprint_of_a_dataset_of_very_many_files_is_read(tmp_path):
    sources = {"train": "x" * json_files.MAX_BYTES}
    write(tmp_path / INFO_FILE, json.dumps(INFO | {"sources": sources}))
    assert read_fingerprint(str(tmp_path)) == "f"


@pytest.mark.parametrize(
    "text", ["[]", "5", "{", '{"special_ids": []}', '{"kind": 5}', '{"special_ids": {}}']
)
def test_a_damaged_meta_file_of_a_tokenizer_is_named(text, tmp_path):
    write(tmp_path / "tokenizer_meta.json", text)
    with pytest.raises(ValueError, match=r"tokenizer_meta\.json: .*make the tokenizer again"):
        read_meta(tmp_path)
