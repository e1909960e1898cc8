"""The dataset builder: rows independent of processes and interruptions, nothing lost, bad input named."""

import json
import multiprocessing
import os
import re
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from data_pipelines import chunks, shards
from data_pipelines.corpus import main
from data_pipelines.corpus_settings import CorpusSettings
from data_pipelines.dataset_info import load_dataset_info
from data_pipelines.documents import Piece, ReadReport
from data_pipelines.mixture import DatasetSource, make_sequential
from data_pipelines.tokenizers.load import load_tokenizer
from support.commands import run_python
from support.killed_worker import die_with_the_lock
from support.small_corpus import WORDS, build, flags, make_documents, rows_of, write, write_data

PAD_ID, CLS_ID, SEP_ID = 0, 1, 2


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Sources and a tokenizer."""
    return write_data(tmp_path_factory.mktemp("corpus"))


@pytest.mark.parametrize("packing", ["documents", "contiguous", "electra"])
def test_rows_do_not_depend_on_the_number_of_processes(data, tmp_path, packing):
    one, two = (
        build(data, tmp_path / "one", packing=packing),
        build(data, tmp_path / "two", packing=packing, num_processes=2),
    )
    assert one.fingerprint == two.fingerprint and len(one.splits["train"]["shards"]) > 2
    np.testing.assert_array_equal(rows_of(tmp_path / "one"), rows_of(tmp_path / "two"))
    assert not (tmp_path / "one.partial").exists()
    build(data, f"{tmp_path}/three/", packing=packing)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "three", "two"]


def test_every_token_of_every_document_is_there_once(data, tmp_path):
    info = build(data, tmp_path / "out")
    tokenizer = load_tokenizer(str(data / "tokenizer"))
    expected = np.concatenate([tokenizer.encode_batch([document])[0] for document in make_documents(200, 1)])
    kept = rows_of(tmp_path / "out")
    kept = kept[~np.isin(kept, (PAD_ID, CLS_ID, SEP_ID))]
    np.testing.assert_array_equal(np.sort(kept), np.sort(expected))
    train = info.splits["train"]
    assert (train["documents"], train["text_tokens"], train["dropped_text_tokens"]) == (200, len(expected), 0)
    assert train["tokens"] == (rows_of(tmp_path / "out") != PAD_ID).sum()


def test_the_separator_of_documents_is_a_setting_that_older_datasets_lack(data, tmp_path):
    source = tmp_path / "a.txt"
    source.write_text("a cat sat\nthe dog ran\n\na bird flew\n" * 20)
    sources = {"train": [str(source)], "validation": [str(source)]}
    found = {
        separator: build(data, tmp_path / separator, document_separator=separator, **sources)
        for separator in ("blank_line", "line", "file")
    }
    numbers = [info.splits["train"]["documents"] for info in found.values()]
    # Of the first, the last line of a repetition and the first lines of the next one are one document.
    assert numbers == [21, 60, 1]
    recorded = [info.sources.get("document_separator") for info in found.values()]
    assert recorded == [None, "line", "file"]
    assert build(data, tmp_path / "line", document_separator="line", **sources) == found["line"]
    for name, other in (("line", "blank_line"), ("blank_line", "line")):
        with pytest.raises(FileExistsError, match="holds a dataset with different sources"):
            build(data, tmp_path / name, document_separator=other, **sources)


@pytest.mark.parametrize("num_processes", [1, 2])
def test_progress_counts_every_character_once(data, tmp_path, num_processes):
    """Also of files that are finished already."""
    settings = CorpusSettings(
        train=(str(data / "train.jsonl"),),
        validation_fraction=0.1,
        tokenizer=str(data / "tokenizer"),
        sequence_length=32,
        packing="documents",
        chunk_chars=4_000,
    )
    group = chunks.Group("train", 0, list(settings.train))
    for _ in range(2):
        counted, report = [], ReadReport()
        jobs = chunks.read_jobs(group, settings, tmp_path, report)
        list(shards.run_jobs(jobs, num_processes, counted.append))
        assert counted == sorted(counted) and counted[-1] == report.characters > 0
        assert len(set(counted)) > 2


@pytest.mark.parametrize("num_processes", [1, 2])
def test_a_build_shows_that_it_works_before_it_reads(data, tmp_path, capsys, num_processes):
    size = sum((data / f"{name}.jsonl").stat().st_size for name in ("train", "validation"))
    build(data, tmp_path / "out", num_processes=num_processes)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "packing …" and len(lines) >= 2
    assert all(re.match(rf"packing  [\d.k]+B/{size / 1000:.1f}kB \(", line) for line in lines[1:]), lines


def test_electra_packing_counts_dropped_tokens(data, tmp_path):
    split = build(data, tmp_path / "out", packing="electra").splits["train"]
    rows = rows_of(tmp_path / "out")
    assert split["dropped_text_tokens"] == split["text_tokens"] - (rows > SEP_ID).sum() > 0
    build(data, tmp_path / "other", packing="electra", seed=1)
    assert not np.array_equal(rows, rows_of(tmp_path / "other")[: len(rows)])


def test_electra_packing_draws_other_numbers_in_every_chunk(data, tmp_path):
    source = write(tmp_path / "same.jsonl", ["\n".join(make_documents(50, 1))] * 4)
    info = build(data, tmp_path / "out", train=[source], packing="electra")
    assert len(info.splits["train"]["shards"]) == 4
    ends = np.cumsum(info.splits["train"]["rows_by_shard"])[:-1]
    chunks = [chunk.tobytes() for chunk in np.split(rows_of(tmp_path / "out"), ends)]
    assert len(set(chunks)) == 4


def test_a_killed_process_is_an_error_and_what_is_finished_is_kept(data, tmp_path):
    pieces = [Piece(document, "train.jsonl") for document in make_documents(200, 1)]
    tokenizer = str(data / "tokenizer")

    def jobs():
        for number in range(9):
            if number == 6:
                os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
            yield chunks.Job(tokenizer, 32, "documents", (0, 0, number), str(tmp_path / f"{number}"), pieces)

    done = []
    with pytest.raises(OSError, match="one of 2 processes was killed"):
        done += shards.run_jobs(jobs(), 2)
    finished = [path.name.partition(".")[0] for path in tmp_path.glob("*" + shards.COUNTS_SUFFIX)]
    assert finished and all((tmp_path / name).exists() for name in finished)


def test_a_process_that_is_killed_while_it_counts(data, tmp_path, monkeypatch):
    """It holds the lock of the number of characters, which is read for the progress bar all the same."""
    monkeypatch.setattr(shards, "start_worker", die_with_the_lock)
    pieces = [Piece(document, "train.jsonl") for document in make_documents(20, 1)]
    job = chunks.Job(str(data / "tokenizer"), 32, "documents", (0, 0, 0), str(tmp_path / "0"), pieces)

    def is_waiting(*_):
        raise TimeoutError("it waits for a lock that nobody gives back")

    before = signal.signal(signal.SIGALRM, is_waiting)
    signal.alarm(60)
    try:
        with pytest.raises(OSError, match="one of 2 processes was killed"):
            list(shards.run_jobs(iter([job]), 2))
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def test_a_file_that_cannot_be_written_is_an_error_and_leaves_no_half_file(data, tmp_path):
    """As on a full disk: no file may exceed 20 kB."""
    program = (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)); "
        "from data_pipelines.corpus import main; main()"
    )
    words = *flags(data), "--validation", data / "validation.jsonl", "--out", tmp_path / "out"
    result = run_python("-B", "-c", program, *words)
    error = result.stderr.replace("\r", "\n").splitlines()[-1]
    assert (
        result.returncode == 1
        and "error: " in error
        and "cannot be written" in error
        and "Traceback" not in result.stderr
    )
    assert not (tmp_path / "out").exists()
    assert not list((tmp_path / "out.partial").glob("*.tmp"))


def test_all_pieces_of_a_long_document_are_in_one_split(data, tmp_path):
    """Of each, the first piece has a number at its start, the second at its end."""
    words = " ".join(np.random.default_rng(0).choice(WORDS, size=260_000))  # more than a million characters
    source = write(tmp_path / "books.jsonl", [f"{number:02d} {words} {number:02d}" for number in range(12)])
    settings = CorpusSettings([source], str(data), 32, "documents", validation_fraction=0.5)
    [group] = chunks.make_groups("train", settings.train, settings.chunk_chars)
    splits = {}
    for job in chunks.read_jobs(group, settings, tmp_path, ReadReport()):
        for piece in job.pieces:
            number = piece.text[:2] if piece.is_first else piece.text[-2:]
            splits.setdefault(int(number), []).append(Path(job.path).name.partition("-")[0])
    assert sorted(splits) == list(range(12))
    assert all(split in (["train"] * 2, ["validation"] * 2) for split in splits.values()), splits
    assert len({split[0] for split in splits.values()}) == 2


def test_held_out_share_is_split_by_document(data, tmp_path):
    documents = make_documents(400, 4)
    source = write(tmp_path / "all.jsonl", documents + documents[:100])
    info = build(
        data, tmp_path / "out", train=[source], validation=[], validation_fraction=0.25, packing="contiguous"
    )
    assert info.splits["train"]["documents"] + info.splits["validation"]["documents"] == 500
    assert 0.18 < info.splits["validation"]["documents"] / 500 < 0.32
    tokenizer = load_tokenizer(str(data / "tokenizer"))
    text = {}
    for split in ("train", "validation"):
        rows = rows_of(tmp_path / "out", split)
        text[split] = tokenizer.decode(rows[~np.isin(rows, (PAD_ID, CLS_ID, SEP_ID))].tolist())
    for index in range(400):  # each is in one split, repeated ones too
        assert sum(f"number 4 {index} " in side for side in text.values()) == 1


def test_it_is_a_tfds_dataset_and_a_mixture_reads_it(data, tmp_path):
    info = build(data, tmp_path / "out")
    builder = tfds.builder_from_directory(str(tmp_path / "out"))
    assert {name: split.num_examples for name, split in builder.info.splits.items()} == {
        name: split["rows"] for name, split in info.splits.items()
    }
    mixture = make_sequential([DatasetSource(str(tmp_path / "out"), split="validation")])
    np.testing.assert_array_equal(
        mixture.read(*mixture.rows_at(0, mixture.num_examples)), rows_of(tmp_path / "out", "validation")
    )
    assert build(data, tmp_path / "out") == info  # nothing to do


def test_a_long_line_is_cut_without_losing_text(data, tmp_path):
    line = " ".join(np.random.default_rng(0).choice(WORDS, size=500_000))  # 2 MB
    info = build(
        data, tmp_path / "out", train=[write(tmp_path / "long.jsonl", [line])], chunk_chars=1_500_000
    )
    tokenizer = load_tokenizer(str(data / "tokenizer"))
    assert info.splits["train"]["text_tokens"] == len(tokenizer.encode_batch([line])[0])
    assert info.splits["train"]["dropped_text_tokens"] == 0 and info.splits["train"]["documents"] == 3


def test_a_truncated_file_is_named(data, tmp_path):
    build(data, tmp_path / "out")
    shard = min((tmp_path / "out").glob("*train*array_record*"))
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(OSError, match=f"{shard.name}.*truncated"):
        load_dataset_info(str(tmp_path / "out"))
    path = tmp_path / "out" / "corpus.json"
    path.write_text(path.read_text()[:-100])
    with pytest.raises(ValueError, match=r"corpus\.json: not valid JSON .*build the dataset again"):
        load_dataset_info(str(tmp_path / "out"))


def test_special_ids_are_recorded_and_a_dataset_without_them_is_an_error(data, tmp_path):
    info = build(data, tmp_path / "out")
    assert info.special_ids == {"pad": 0, "cls": 1, "sep": 2, "unk": 3, "mask": 4}
    path = tmp_path / "out" / "corpus.json"
    entries = json.loads(path.read_text())
    del entries["special_ids"]
    path.write_text(json.dumps(entries))
    with pytest.raises(
        ValueError, match=r"corpus\.json: no special_ids, expected (.|\n)*build the dataset again"
    ):
        load_dataset_info(str(tmp_path / "out"))


def test_other_settings_do_not_change_an_existing_directory(data, tmp_path):
    build(data, tmp_path / "out")
    with pytest.raises(FileExistsError, match="different sequence_length"):
        build(data, tmp_path / "out", sequence_length=64)
    (tmp_path / "mine").mkdir()
    with pytest.raises(FileExistsError, match="is not a dataset"):
        build(data, tmp_path / "mine")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"validation": [], "validation_fraction": 0.0}, "give one of the two"),
        ({"validation_fraction": 0.1}, "give one of the two"),
        ({"validation": [], "validation_fraction": 1.5}, "between 0 and 1"),
        ({"packing": "best"}, "expected one of"),
        ({"sequence_length": 2}, "expected at least 3"),
        ({"num_processes": 0}, "at least 1"),
        ({"seed": -1}, "--seed: got -1, expected 0 or more"),
        ({"on_invalid_utf8": "ignore"}, "expected one of error, skip, replace"),
    ],
)
def test_bad_arguments(data, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        build(data, tmp_path / "out", **changes)
    assert not (tmp_path / "out").exists()


def test_sources_given_as_one_string_are_an_error(data, tmp_path):
    with pytest.raises(TypeError, match=r"train: got the string 'a\.txt', expected a list"):
        build(data, tmp_path / "out", train="a.txt")


def test_command_line(data, tmp_path, monkeypatch, capsys):
    common = ["corpus", *flags(data)]
    monkeypatch.setattr(
        sys, "argv", [*common, "--validation_fraction", "0.2", "--out", str(tmp_path / "out")]
    )
    main()
    assert (
        "documents" in capsys.readouterr().out
        and load_dataset_info(str(tmp_path / "out")).sequence_length == 32
    )
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "bad.txt").write_bytes(b"good line\n\n" + b"bad \xff line\n")
    for sources, words in (
        ([str(tmp_path / "empty.jsonl")], "got no text"),
        ([str(tmp_path / "none.txt")], "does not exist"),
        ([str(tmp_path / "bad.txt")], "not valid UTF-8"),
    ):
        monkeypatch.setattr(
            sys, "argv", [*common, "--validation", *sources, "--start_over", "--out", str(tmp_path / "no")]
        )
        with pytest.raises(SystemExit, match=f"error: .*{words}"):
            main()
        assert not (tmp_path / "no").exists()
    for choice, documents in (("skip", 1), ("replace", 2)):
        monkeypatch.setattr(
            sys,
            "argv",
            [
                *common,
                "--validation",
                str(tmp_path / "bad.txt"),
                "--on_invalid_utf8",
                choice,
                "--out",
                str(tmp_path / choice),
            ],
        )
        main()
        assert f"1 lines were not UTF-8 (--on_invalid_utf8 {choice}); the first: " in capsys.readouterr().out
        assert load_dataset_info(str(tmp_path / choice)).splits["validation"]["documents"] == documents


@pytest.mark.slow
def test_memory_does_not_grow_with_the_file(data, tmp_path):
    """A 100 MB file needs no more resident memory than a 25 MB one, in every process."""
    block = json.dumps({"text": "\n".join(make_documents(2_000, 5))}) + "\n"
    # A new process inherits its parent's peak memory; a small process in between hides that of pytest.
    program = (
        "import resource, subprocess, sys; subprocess.run([sys.executable, '-B', '-m', "
        "'data_pipelines.corpus', *sys.argv[1:]], check=True); "
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    peaks = []
    for megabytes in (25, 100):
        with (tmp_path / "text.jsonl").open("w") as file:
            file.writelines(block for _ in range(megabytes * 1_000_000 // len(block)))
        result = run_python(
            *("-B", "-c", program, "--train", tmp_path / "text.jsonl"),
            *("--validation", data / "validation.jsonl", "--tokenizer", data / "tokenizer"),
            *("--sequence_length", "512", "--packing", "contiguous", "--num_processes", "2"),
            *("--out", tmp_path / f"out{megabytes}"),
            timeout=1200,
        )
        assert result.returncode == 0, result.stderr[-2000:]
        peaks.append(int(result.stdout.split()[-1]))  # KiB
    assert peaks[1] < 1.2 * peaks[0] < 600_000
