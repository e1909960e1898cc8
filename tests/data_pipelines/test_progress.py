"""Progress is a bar on a terminal and plain, rare lines in a log file; other work shows its time."""

import io
import re

import fsspec
import pytest

from data_pipelines import buckets, progress
from data_pipelines.progress import make_progress, waiting


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    """A time.monotonic that moves by `clock.now`."""

    class Clock:
        now = 1000.0

    monkeypatch.setattr(progress.time, "monotonic", lambda: Clock.now)
    return Clock


def test_bytes_in_a_log_file_start_with_a_line_and_are_rare(clock):
    log = io.StringIO()
    with make_progress(24e6, "packing", unit="B", is_scaled=True, stream=log) as shown:
        assert log.getvalue() == "packing …\n"
        for done in range(6, 25, 6):
            shown.update(done * 1e6)
            clock.now += 6
    assert log.getvalue().splitlines() == [
        "packing …",
        "packing  6.00MB/24.0MB (25.0%)",
        "packing  18.0MB/24.0MB (75.0%)  ETA 00:06",
        "packing  24.0MB/24.0MB (100.0%)",
    ]


def test_an_unknown_total_and_lines_that_always_come(clock):
    log = io.StringIO()
    with make_progress(None, "downloading", unit="file", stream=log) as shown:
        for done in (1, 2, 3):
            shown.update(done, {"name": f"f{done}"}, always=done == 3)
    assert log.getvalue().splitlines() == [
        "downloading …",
        "downloading  file 1  name f1",
        "downloading  file 3  name f3",
    ]


def test_a_note_comes_between_two_lines(clock):
    log = io.StringIO()
    with make_progress(100, "seed 0, run 1 of 4", stream=log) as shown:
        shown.update(10, {"loss": "0.50"})
        clock.now += 1
        shown.note(20, "validation", {"accuracy": "0.91"})
        shown.update(20, {"loss": "0.40"})  # too soon
    assert log.getvalue().splitlines()[1:] == [
        "seed 0, run 1 of 4  step 10/100 (10.0%)  loss 0.50",
        "seed 0, run 1 of 4  step 20/100 (20.0%)  validation  accuracy 0.91  ETA 00:08",
    ]


def test_a_bar_with_a_description_leaves_only_its_notes():
    terminal = Terminal()
    with make_progress(4, "seed 0", stream=terminal) as shown:
        shown.update(2, {"loss": "0.50"})
        shown.note(2, "validation", {"accuracy": "0.91"})
        shown.update(4, {"loss": "0.25"})
    text = terminal.getvalue()
    assert "seed 0:" in text and "loss=0.50" in text
    assert "seed 0  step 2 validation  accuracy 0.91\n" in text
    assert text.count("\n") == 1 and not text.rpartition("\r")[2].strip()


def test_nothing_is_shown_on_request():
    log = io.StringIO()
    with make_progress(4, "seed 0", is_shown=False, stream=log) as shown, waiting("x", is_shown=False):
        shown.update(4, always=True)
        shown.note(4, "validation", {})
    assert log.getvalue() == ""


def test_work_that_cannot_count_shows_its_time_in_a_log_file(monkeypatch):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_SIGNS", 0.05)
    log = io.StringIO()
    with waiting("compiling", stream=log):
        assert log.getvalue() == "compiling …\n"  # at once
        while log.getvalue().count("\n") < 3:
            pass
    *signs, last = log.getvalue().splitlines()[1:]
    assert set(signs) == {"compiling … 00:00"} and re.fullmatch(r"compiling: \d\.\d s", last)
    with pytest.raises(ValueError), waiting("reading", stream=log):
        raise ValueError
    assert log.getvalue().endswith("reading …\n")  # it did not end


def test_work_that_cannot_count_is_live_on_a_terminal(monkeypatch):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_REDRAWS", 0.05)
    terminal = Terminal()
    with waiting("compiling", stream=terminal):
        assert "compiling … 00:00" in terminal.getvalue()
        while terminal.getvalue().count("compiling …") < 3:
            pass
    assert re.search(r"\rcompiling: \d\.\d s\n$", terminal.getvalue())


def test_a_download_counts_its_files_on_plain_lines(tmp_path, monkeypatch, capsys):
    store = fsspec.filesystem("memory")
    for name in "abc":
        store.pipe(f"/corpus/{name}", b"rows")
    monkeypatch.setattr(buckets, "filesystem", lambda url: store)
    buckets.download("memory://corpus", "abc", tmp_path, label="copying the corpus")
    assert (tmp_path / "c").read_bytes() == b"rows"
    assert capsys.readouterr().err.splitlines() == [
        "copying the corpus …",
        "copying the corpus  file 0/3 (0.0%)",
        "copying the corpus  file 3/3 (100.0%)",
    ]


def test_a_bar_advances_between_its_rows_and_does_not_go_back():
    terminal = Terminal()
    with make_progress(40, stream=terminal) as shown:
        shown.update(10, {"loss": "0.50"})
        shown.advance(22)
        shown.update(20, {"loss": "0.40"})  # a row that comes late
        shown.note(20, "evaluation", {"auc": "0.60"})  # draws the bar again
    last = terminal.getvalue().rpartition("evaluation")[2]
    assert "| 22/40 [" in last and "loss=0.40" in last


def test_a_log_file_gets_no_lines_without_words(clock):
    log = io.StringIO()
    with make_progress(40, stream=log) as shown:
        shown.update(10, {"loss": "0.50"})
        clock.now += 60
        shown.advance(22)
    assert log.getvalue() == "step 10/40 (25.0%)  loss 0.50\n"


def test_a_line_comes_above_a_bar():
    terminal = Terminal()
    with make_progress(4, "seed 0", stream=terminal), waiting("compiling", stream=terminal):
        terminal.truncate(0)
    line = next(line for line in terminal.getvalue().split("\n") if "compiling: " in line)
    assert re.search(r"\rcompiling: \d+\.\d s$", line)
