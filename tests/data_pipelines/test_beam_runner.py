"""The dataset builder with Apache Beam's runner for one machine: the same directory, byte for byte."""

import json
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds

from data_pipelines import chunks, corpus, dataset_directory, shards
from data_pipelines.corpus_builder import build_corpus
from data_pipelines.corpus_settings import CorpusSettings
from data_pipelines.tokenizers.train import train_tokenizer
from support import aside
from support.commands import run_python

TEXT = "the a cat dog sat ran on over mat hill river and then it was seen"
WORDS = tuple(TEXT.split())
GROUP_CHUNKS = 4  # small groups, so that small sources make several
BUILD = f"""
import json, os, sys
from data_pipelines import chunks, shards
from data_pipelines.corpus_builder import Workers, build_corpus
from data_pipelines.corpus_settings import CorpusSettings
chunks.GROUP_CHUNKS = {GROUP_CHUNKS}
"""
BAR = "packing …\n"  # shown if processes of this machine do the work
RUN = """
given = json.loads(sys.argv[1])
build_corpus(given["directory"], CorpusSettings(**given["settings"]), Workers(**given["workers"]))
"""


def make_documents(count, seed):
    rng = np.random.default_rng(seed)
    line = lambda: " ".join(rng.choice(WORDS, size=rng.integers(3, 20)))
    return [f"{index} " + "\n".join(line() for _ in range(rng.integers(1, 6))) for index in range(count)]


def write(path, documents):
    """One record a line, or a blank line between documents."""
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps({"text": document}) + "\n" for document in documents))
    else:
        path.write_text("\n\n".join(documents))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A tokenizer, and sources of about 6 kB each, three quarters of a group."""
    root = tmp_path_factory.mktemp("beam")
    train_tokenizer(make_documents(300, 0), str(root / "tokenizer"), vocab_size=60)
    for number, name in enumerate(
        ("a.jsonl", "b.txt", "c.jsonl", "d.txt", "e.jsonl", "held_out.jsonl", "held_out.txt"), 1
    ):
        write(root / name, make_documents(45, number))
    return root


@pytest.fixture
def settings(data, monkeypatch):
    """Fields of CorpusSettings."""
    monkeypatch.setattr(chunks, "GROUP_CHUNKS", GROUP_CHUNKS)
    return {
        "train": [str(data / name) for name in ("a.jsonl", "b.txt", "c.jsonl", "d.txt", "e.jsonl")],
        "validation_fraction": 0.2,
        "tokenizer": str(data / "tokenizer"),
        "sequence_length": 32,
        "packing": "electra",
        "chunk_chars": 2_000,
    }


def with_beam(*arguments, cwd=None):
    """The result of a Python process with Apache Beam."""
    return run_python(*arguments, environment=aside.environment("beam"), cwd=cwd, timeout=120)


def build_here(directory, settings):
    return build_corpus(str(directory), CorpusSettings(**settings))


def build_with_beam(directory, settings, program=RUN, cwd=None, beam_options=()):
    workers = {"runner": "FnApiRunner", "beam_options": beam_options}
    given = {"directory": str(directory), "settings": settings, "workers": workers}
    return with_beam("-c", BUILD + program, json.dumps(given), cwd=cwd)


def files(root):
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_small_sources_share_a_group_and_a_long_one_is_a_group(tmp_path, monkeypatch):
    monkeypatch.setattr(chunks, "GROUP_CHUNKS", 4)
    monkeypatch.chdir(tmp_path)
    for name, size in (("a", 30), ("b", 10), ("c", 500), ("d", 39), ("e", 39), ("f", 1)):
        (tmp_path / name).write_bytes(bytes(size))
    path = lambda name: str(tmp_path / name)
    sources = ["a", "b", "c", "d", "tfds:name", "e", "f"]
    assert chunks.make_groups("train", sources, chunk_chars=10) == [
        ("train", 0, [path("a"), path("b")]),
        ("train", 1, [path("c")]),
        ("train", 2, [path("d"), "tfds:name"]),
        ("train", 3, [path("e"), path("f")]),
    ]
    assert chunks.make_groups("validation", [], chunk_chars=10) == []


def test_electra_packing_draws_other_numbers_in_every_group(settings, tmp_path):
    sources = [str(tmp_path / f"{number}.jsonl") for number in range(3)]
    for source in sources:
        (tmp_path / source).write_text(json.dumps({"text": "\n".join(make_documents(60, 1))}) + "\n")
    changes = {"train": sources, "validation": sources, "validation_fraction": 0.0}
    info = build_here(tmp_path / "out", settings | changes)
    rows = np.stack(
        [
            row["input_ids"]
            for row in tfds.builder_from_directory(str(tmp_path / "out")).as_data_source("train")
        ]
    )
    ends = np.cumsum(info.splits["train"]["rows_by_shard"])[:-1]
    assert len({chunk.tobytes() for chunk in np.split(rows, ends)}) == len(ends) + 1 == 3


def test_half_written_files_are_removed_and_finished_ones_are_kept(settings, tmp_path, monkeypatch):
    """Before anything is packed: the second build ends as early as the first."""
    monkeypatch.setattr(dataset_directory, "write_tfds_metadata", lambda *_: 1 / 0)
    partial = tmp_path / "out.partial"
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            build_here(tmp_path / "out", settings)
        names = {path.name for path in partial.iterdir()}
        assert "train-00000000-00000000" in names and not any(name.endswith(".tmp") for name in names)
        for name in ("train-1.2.tmp", ".train-1.2.tmp"):
            (partial / name).touch()


@pytest.mark.parametrize(
    ("changes", "held_out", "beam_options"),
    [
        (
            {"packing": "electra", "validation_fraction": 0.2},
            [],
            ["--direct_num_workers=2", "--direct_running_mode=multi_processing"],
        ),
        ({"packing": "documents", "validation_fraction": 0.0}, ["held_out.jsonl", "held_out.txt"], []),
    ],
)
def test_the_directory_is_that_of_the_local_builder(
    data, settings, tmp_path, changes, held_out, beam_options
):
    settings = settings | changes | {"validation": [str(data / name) for name in held_out]}
    local = build_here(tmp_path / "local", settings)
    assert (
        len(chunks.make_groups("train", settings["train"], 2_000)) == 3
        and len(local.splits["train"]["shards"]) > 9
    )
    (tmp_path / "a b").symlink_to(sys.prefix)  # workers of several processes find a Python of such a path
    python = f"sys.executable = {str(tmp_path / 'a b' / 'bin' / 'python')!r}\n"
    result = build_with_beam(tmp_path / "beam", settings, python + RUN, beam_options=beam_options)
    assert result.returncode == 0 and BAR not in result.stderr, result.stderr[-2000:]
    assert files(tmp_path / "beam") == files(tmp_path / "local")
    assert not (tmp_path / "beam.partial").exists()


QUOTED = """
import sys
from data_pipelines.beam_runner import make_pipeline, quoted_python
sys.executable = "/a b/python"
for runner in ("FnApiRunner", "DirectRunner", "FlinkRunner", "SparkRunner", "PortableRunner"):
    for mode in ("multi_processing", "in_memory"):
        with quoted_python(make_pipeline(runner, [f"--direct_running_mode={mode}"])):
            print(runner, mode, sys.executable)
        assert sys.executable == "/a b/python"
"""


def test_only_the_runner_for_one_machine_gets_a_quoted_python():
    result = with_beam("-c", QUOTED)
    assert result.returncode == 0, result.stderr[-2000:]
    quoted = [line.split()[:2] for line in result.stdout.splitlines() if line.endswith("'/a b/python'")]
    assert quoted == [[runner, "multi_processing"] for runner in ("FnApiRunner", "DirectRunner")]
    assert result.stdout.count("/a b/python") == 10


def test_command_line(data, tmp_path):
    """Paths are relative, and skipped lines are counted as without Beam."""
    bad = tmp_path / "bad.txt"
    bad.write_bytes(b"good\n\nbad \xff line\n")
    sources = ["a.jsonl", str(bad), "b.txt"]
    command = [
        "-m",
        "data_pipelines.corpus",
        "--train",
        *sources,
        "--validation",
        "held_out.txt",
        str(bad),
        "--tokenizer",
        "tokenizer",
        "--sequence_length",
        "32",
        "--packing",
        "contiguous",
        "--on_invalid_utf8",
        "skip",
        "--num_processes",
        "1",
    ]
    local = with_beam(*command, "--out", str(tmp_path / "local"), cwd=data)
    beam = with_beam(
        *command,
        "--out",
        str(tmp_path / "beam"),
        "--runner",
        "FnApiRunner",
        "--",
        "--direct_num_workers=1",
        cwd=data,
    )
    assert (beam.returncode, local.returncode) == (0, 0), beam.stderr[-2000:]
    assert BAR in local.stderr and BAR not in beam.stderr and "packing with FnApiRunner …\n" in beam.stderr
    assert (
        beam.stdout == local.stdout
        and f"2 lines were not UTF-8 (--on_invalid_utf8 skip); the first: {bad}:3" in beam.stdout
    )
    assert files(tmp_path / "beam") == files(tmp_path / "local")


def test_an_interrupted_build_resumes_with_the_same_result(settings, tmp_path):
    """The process exits after three chunks, as if the system killed it."""
    build_here(tmp_path / "local", settings)
    dies = """
write_shard, written = shards.write_shard, []
def write_three(job):
    if len(written) == 3:
        open(job.path + ".half.tmp", "wb").write(b"half a file")
        os._exit(9)
    written.append(job)
    return write_shard(job)
shards.write_shard = write_three
"""
    assert build_with_beam(tmp_path / "beam", settings, dies + RUN).returncode == 9
    partial = tmp_path / "beam.partial"
    when = lambda path: (path.stat().st_ino, path.stat().st_mtime_ns)
    done = {
        when(path.with_name(path.name.removesuffix(shards.COUNTS_SUFFIX)))
        for path in partial.glob("*" + shards.COUNTS_SUFFIX)
    }
    assert len(done) == 3 and not (tmp_path / "beam").exists()
    result = build_with_beam(tmp_path / "beam", settings)
    assert result.returncode == 0, result.stderr[-2000:]
    assert done < {when(path) for path in (tmp_path / "beam").glob("*array_record*")}
    assert files(tmp_path / "beam") == files(tmp_path / "local") and not partial.exists()


def test_files_that_workers_write_elsewhere_are_an_error(settings, tmp_path):
    """First only the rows, then everything: results of the first attempt must not count for the second."""
    elsewhere = f"""
write_shard = shards.write_shard
here = lambda path: path.replace({str(tmp_path / "out.partial")!r}, ".")
shards.write_shard = lambda job: write_shard(job._replace(path=here(job.path)))
"""
    nowhere = """
from data_pipelines import beam_runner
beam_runner.write_json = lambda path, value: None
"""
    for program, name in ((elsewhere, "train-00000000-00000000"), (nowhere, "chunks.json")):
        result = build_with_beam(tmp_path / "out", settings, program + RUN, cwd=tmp_path)
        assert result.returncode == 1 and not (tmp_path / "out").exists()
        assert (
            f"{name}: a worker wrote it, but it does not exist here. Give an --out on a file system that"
            in result.stderr
        )


@pytest.mark.parametrize(
    ("runner", "code", "words"),
    [
        (["Fast"], 1, "error: --runner Fast: Unexpected pipeline runner: Fast. Valid values are "),
        (
            ["apache_beam.Fast"],
            1,
            "error: --runner apache_beam.Fast: module 'apache_beam' has no attribute 'Fast'",
        ),
        (
            ["FnApiRunner", "--", "--direct_running_mode=fast"],
            2,
            "error: argument --direct_running_mode: invalid choice: 'fast'",
        ),
        (["FnApiRunner"], 1, "error: the Beam pipeline failed: {bad}:3: not valid UTF-8 "),
    ],
)
def test_errors_are_one_sentence(data, tmp_path, runner, code, words):
    bad = tmp_path / "bad.txt"
    bad.write_bytes(b"good\n\nbad \xff line\n")
    result = with_beam(
        "-m",
        "data_pipelines.corpus",
        "--train",
        "a.jsonl",
        "--validation",
        str(bad),
        "--tokenizer",
        "tokenizer",
        "--sequence_length",
        "32",
        "--packing",
        "documents",
        "--out",
        str(tmp_path / "out"),
        "--runner",
        *runner,
        cwd=data,
    )
    assert result.returncode == code and words.format(bad=bad) in result.stderr.splitlines()[-1]
    assert not (tmp_path / "out").exists()


def test_without_apache_beam(settings, data, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    monkeypatch.delitem(sys.modules, "data_pipelines.beam_runner", raising=False)
    build_here(tmp_path / "local", settings)
    command = [
        "corpus",
        "--train",
        *settings["train"],
        "--validation_fraction",
        "0.2",
        "--tokenizer",
        str(data / "tokenizer"),
        "--sequence_length",
        "32",
        "--packing",
        "documents",
        "--out",
        str(tmp_path / "out"),
    ]
    for arguments, words in (
        (
            ["--runner", "FnApiRunner"],
            r"--runner FnApiRunner: needs Apache Beam, .*`pip install -e '\.\[beam\]'`",
        ),
        (["--", "--direct_num_workers=2"], "Beam's options --direct_num_workers=2 without --runner"),
    ):
        monkeypatch.setattr(sys, "argv", [*command, *arguments])
        with pytest.raises(SystemExit, match=f"error: .*{words}"):
            corpus.main()
    assert [path.name for path in tmp_path.iterdir()] == ["local"]
