"""Text that the corpus builder cannot read, or not all of: it is refused by its name, or the same rows are
built."""

import gzip
import json
import shutil

import pytest
import zstandard

from data_pipelines.dataset_info import load_dataset_info
from support.faults import DIFFERENT, EXACT, REFUSED, Fault, clear

SAMPLE = 3
ALLOWED = (EXACT, REFUSED)
DOCUMENTS = [f"document {number} " + "tea pan bada sol " * (3 + number % 5) for number in range(120)]
LINES = [json.dumps({"text": text}).encode() for text in DOCUMENTS]
JSON = b"\n".join(LINES) + b"\n"
TEXT = "\n\n".join(DOCUMENTS).encode()


def compress_zstd(data):
    """With a checksum, as the program `zstd` has it."""
    return zstandard.ZstdCompressor(write_checksum=True).compress(data)


PACKED = {"a.jsonl.gz": gzip.compress(JSON, mtime=0), "a.jsonl.zst": compress_zstd(JSON)}
GIGANTIC = b'{"text": "' + b"a" * (80 << 20)
HALVES = JSON[: len(JSON) // 2], JSON[len(JSON) // 2 :]


def flipped(data, place):
    """A bit of the byte at this share of it is another one."""
    at = min(len(data) - 1, int(place * len(data)))
    return data[:at] + bytes([data[at] ^ 16]) + data[at + 1 :]


def with_line(line, at=60):
    """One more line among the others."""
    return b"\n".join([*LINES[:at], line, *LINES[at:]]) + b"\n"


# Name of the fault → name of the file, its bytes.
FILES = {
    **{
        f"{name}, a bit at {place:.1%}": (name, flipped(data, place))
        for name, data in PACKED.items()
        for place in (0, 0.002, 0.005, 0.01, 0.05, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99, 1)
    },
    **{
        f"{name}, cut to {share:.0%}": (name, data[: int(len(data) * share)])
        for name, data in PACKED.items()
        for share in (0.01, 0.3, 0.7, 0.99)
    },
    **{f"{name}, with more after its end": (name, data + b"more") for name, data in PACKED.items()},
    "a.jsonl.gz of two members": ("a.jsonl.gz", b"".join(map(gzip.compress, HALVES))),
    "a.jsonl.zst of two frames": ("a.jsonl.zst", b"".join(map(compress_zstd, HALVES))),
    "plain text called .gz": ("a.jsonl.gz", JSON),
    "gzip called .jsonl": ("a.jsonl", PACKED["a.jsonl.gz"]),
    "gzip within gzip": ("a.jsonl.gz", gzip.compress(PACKED["a.jsonl.gz"])),
    "invalid UTF-8 in JSON": ("a.jsonl", with_line(b'{"text": "a \xff\xfe b"}')),
    "invalid UTF-8 in text": ("a.txt", TEXT + b"\n\nan \xe2\x82 end"),
    "UTF-16": ("a.txt", TEXT.decode().encode("utf-16")),
    "a cut line": ("a.jsonl", JSON[:-9]),
    "a list for a line": ("a.jsonl", with_line(b"[1, 2]")),
    "a number for a text": ("a.jsonl", with_line(b'{"text": 7}')),
    "an object for a text": ("a.jsonl", with_line(b'{"text": {"a": 1}}')),
    "a deep line": ("a.jsonl", with_line(b'{"text": ' + b"[" * 100_000)),
    "half a surrogate": ("a.jsonl", with_line(b'{"text": "a \\ud800 b"}')),
    "zeros among the lines": ("a.jsonl", with_line(bytes(4096))),
    "other records without a text": ("a.jsonl", b'{"body": "a"}\n' * 9),
    "blank lines": ("a.jsonl", with_line(b" \n\n")),
    "a mark and \\r\\n": ("a.jsonl", b"\xef\xbb\xbf" + JSON.replace(b"\n", b"\r\n")),
    "a gigantic line": ("a.jsonl.gz", gzip.compress(with_line(b'{"text": "' + b"a" * (80 << 20) + b'"}'), 1)),
    "a gigantic line without an end": (
        "a.jsonl.gz",
        gzip.compress(JSON + b'{"text": "' + b"a" * (80 << 20), 1),
    ),
    "a gigantic number": ("a.jsonl", with_line(b'{"text": ' + b"9" * 1_000_000 + b"}")),
    "an empty file": ("a.jsonl", b""),
    "an unknown ending": ("a.xml", JSON),
}
FAULTS = [Fault(name, allowed=ALLOWED, names=file) for name, (file, _) in FILES.items()]


@pytest.fixture(scope="module")
def build(forks, data):
    """(directory, name, bytes) → the builder at its end; the dataset is directory/corpus."""

    def run(directory, name, content):
        directory.mkdir(exist_ok=True)
        (directory / name).write_bytes(content)
        words = [
            f"--train={directory / name}",
            f"--validation={data / 'validation.txt'}",
            "--num_processes=1",
        ]
        words += [f"--tokenizer={data / 'tokenizer_corpus'}", "--sequence_length=32", "--packing=documents"]
        return forks.run("data_pipelines.corpus", *words, f"--out={directory / 'corpus'}")

    return run


@pytest.fixture(scope="module")
def whole(build, tmp_path_factory):
    """Fingerprint of the dataset of the text that nothing is wrong with."""
    directory = tmp_path_factory.mktemp("whole")
    run = build(directory, "a.jsonl", JSON)
    assert run.code == 0, run.text
    return load_dataset_info(str(directory / "corpus")).fingerprint


def test_text_that_is_damaged_is_refused_or_read_exactly(fault, build, whole, record, tmp_path):
    run = build(tmp_path / "input", *FILES[fault.name])
    dataset = tmp_path / "input" / "corpus"
    if run.code:
        outcome = clear(run.code, run.text, fault.names)
        assert not dataset.exists()
    else:
        is_same = load_dataset_info(str(dataset)).fingerprint == whole
        outcome = EXACT if is_same and "Traceback" not in run.text else DIFFERENT
    record(fault.name, outcome)
    assert outcome in fault.allowed, (run.code, run.text[-3000:])
    shutil.rmtree(tmp_path / "input")
