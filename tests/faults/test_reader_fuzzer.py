"""A fuzzer: files that are nearly right, or not at all. Readers raise errors that name the file, and
no others.

All in all more than 100,000 inputs with --all_faults.
"""

import json
import signal
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_pipelines.command_errors import EXPECTED
from support import tiny_export
from support.reader_seeds import NAMES, make_readers

SAMPLE, ALL = 25, 4_000  # inputs for each reader, in each of the two ways
SECONDS = 20  # that a small file may take
OF_JSON = [name for name in NAMES if name.endswith((".json", ".jsonl"))]
WORDS = [
    *(bytes([number]) for number in b"\0\r\n\t \"'\\{}[],:#-_0\xff"),
    *(
        b"\xef\xbb\xbf",
        b"\n\n",
        b"\\ud800",
        b"-1",
        b"1e999",
        b"NaN",
        b"Infinity",
        b"null",
        b"true",
        b"[]",
        b"{}",
    ),
    *(b"9" * 20, b"9" * 5000, b"[" * 3000, b"a" * 3000, "\u2028é漢🙂\u0301".encode()),
]
edits = st.lists(
    st.tuples(st.floats(0, 1), st.integers(0, 12), st.sampled_from(WORDS) | st.binary(max_size=4)), max_size=5
)
# Configurations take no key with a dot.
keys = st.text(max_size=4) | st.sampled_from(["a.b", "items", "", "\ud800"])
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from([-1, 0, 2**31, 2**63, 2**64, 10**400, 1e308, "", ".", "../x", "/", "\x00", "\ud800"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=4,
)
HOSTILE = [
    *({"a.b": 1}, {"items": 1}, {"": 0}, {"\ud800": 1}, {"a": [1, "x"]}, {"0": 0}, {}),
    *([{}], [[]], [[1, 2], [3]], [1, {"a.b": 2}], ["a"], []),
    *(None, True, -1, 0, 2**31, 2**63, 10**400, -(10**400), 0.5, 5e-324),
    *(float("inf"), float("-inf"), float("nan"), "", "\x00", "\ud800", "(((", "../x"),
]


@pytest.fixture(scope="session")
def readers(data):
    """name → reader."""
    config = tiny_export.make_config(tiny_export.electra_model(), data)
    found = make_readers(data / "corpus", data / "tokenizer_corpus", config)
    assert [each.name for each in found] == NAMES
    return {each.name: each for each in found}


@pytest.fixture
def check(request, readers, tmp_path):
    """(reader, bytes) → None: read a file with this content."""
    counted = []

    def read(name, content):
        counted.append(1)
        reader, directory = readers[name], tmp_path / str(len(counted) % 2)
        path = directory / name
        for other, beside in (reader.beside | {path.name: content}).items():
            path.parent.mkdir(parents=True, exist_ok=True)
            (path.parent / other).write_bytes(beside)
        signal.alarm(SECONDS)
        try:
            reader.read(path)
        except EXPECTED as error:
            assert path.name in str(error) or str(path.parent) in str(error), (
                f"{type(error).__name__}: {error}"
            )
        finally:
            signal.alarm(0)

    before = signal.signal(signal.SIGALRM, _hangs)
    yield read
    signal.signal(signal.SIGALRM, before)
    request.node.user_properties.append(("inputs", len(counted)))


class Hangs(BaseException):
    """No Exception, which readers of damaged files turn into a ValueError."""


def _hangs(number, frame):
    raise Hangs(f"more than {SECONDS} s")


def examples(is_whole):
    """Settings of hypothesis. A sample is the same every time."""
    return settings(
        max_examples=ALL if is_whole else SAMPLE,
        deadline=None,
        database=None,
        derandomize=not is_whole,
        suppress_health_check=list(HealthCheck),
    )


def edited(content, changes):
    """Bytes with some of them removed and others put in."""
    for place, removed, inserted in changes:
        at = int(place * len(content))
        content = content[:at] + inserted + content[at + removed :]
    return content


def nodes(value, path=()):
    """Paths to all values inside of a value of JSON."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path] + [found for key, inner in items for found in nodes(inner, (*path, key))]


def replaced(value, path, new):
    """A value of JSON with another one at `path`; "removed" removes it."""
    if not path:
        return new
    copy = value.copy()
    if new == "removed":
        inner = copy[path[0]]
        if len(path) == 1:
            del copy[path[0]]
        else:
            copy[path[0]] = replaced(inner, path[1:], new)
    else:
        copy[path[0]] = replaced(copy[path[0]], path[1:], new)
    return copy


@pytest.mark.parametrize("name", NAMES)
def test_edited_bytes(name, readers, check, is_whole):
    @examples(is_whole)
    @given(edits, st.booleans())
    def read(changes, is_seed):
        check(name, edited(readers[name].seed if is_seed else b"", changes))

    check(name, readers[name].seed)
    read()


def first_of(reader):
    """(the value of a JSON file, or of its first line; the lines after that)"""
    first, *others = reader.seed.split(b"\n") if reader.name.endswith("l") else [reader.seed]
    return json.loads(first), others


@pytest.mark.parametrize("name", OF_JSON)
def test_other_values_in_json(name, readers, check, is_whole):
    seed, others = first_of(readers[name])
    places = nodes(seed)

    @examples(is_whole)
    @given(st.sampled_from(places), values | st.just("removed"))
    def read(place, new):
        content = json.dumps(replaced(seed, place, new)).encode()
        check(name, b"\n".join([content, *others]))

    read()


@pytest.mark.all_faults
@pytest.mark.parametrize("name", OF_JSON)
def test_hostile_values_at_every_place_of_json(name, readers, check):
    seed, others = first_of(readers[name])
    for place in nodes(seed):
        for new in (*HOSTILE, "removed"):
            check(name, b"\n".join([json.dumps(replaced(seed, place, new)).encode(), *others]))


@pytest.mark.parametrize("name", OF_JSON)
def test_deep_json(name, check):
    for opening in (b"[", b'{"a":'):
        check(name, opening * sys.getrecursionlimit() * 3)
