"""A run whose directory is on a bucket that gcsfuse mounts: a file is there as it was when it was last
closed."""

import shutil
from pathlib import Path

import pytest

from electra_jax.runs.bucket_runs import RunDirectory
from electra_jax.training.checkpointing import Checkpointer
from electra_jax.training.events import EventLog, read_events
from electra_jax.training.writers import MetricWriters, read_metrics
from support import poisoned
from support.poisoned import configuration, poison


@pytest.fixture
def bucket(monkeypatch, tmp_path):
    """A directory to which every file that is opened for appending is copied when it is closed."""
    directory, original = tmp_path / "bucket", Path.open
    directory.mkdir()

    def opened(path, mode="r", *arguments, **options):
        file = original(path, mode, *arguments, **options)
        close = file.close

        def close_and_copy():
            close()
            shutil.copy(path, directory / path.name)

        if mode == "a":
            file.close = close_and_copy
        return file

    monkeypatch.setattr(Path, "open", opened)
    return directory


def test_rows_and_events_are_in_the_bucket_before_a_checkpoint_and_after_an_evaluation(
    bucket, data, tmp_path, monkeypatch
):
    found = []
    save, publish = Checkpointer.save, RunDirectory.publish

    def look(what):
        rows = [(row["step"], "loss" in row) for row in read_metrics(bucket)]
        found.append((what, rows, [event["step"] for event in read_events(bucket)]))

    def looking_save(self, step, *arguments):
        look(f"save {step}")
        save(self, step, *arguments)

    def looking_publish(self, *arguments):
        publish(self, *arguments)
        look("published")

    monkeypatch.setattr(Checkpointer, "save", looking_save)
    monkeypatch.setattr(RunDirectory, "publish", looking_publish)
    changes = {"train__num_steps": 8, "log__every": 2, "eval__every": 4, "trouble__on_nonfinite": "skip"}
    config = configuration(data, **changes)
    poisoned.run(monkeypatch, config, tmp_path / "run", poison(data, {2: float("inf")}))
    until_4 = [(2, True), (4, True), (4, False)]
    until_8 = [*until_4, (6, True), (8, True)]
    seen = [
        ("published", until_4, [3]),  # evaluated
        ("save 5", until_4, [3]),
        ("save 8", until_8, [3]),
        ("published", [*until_8, (8, False)], [3]),  # evaluated
    ]
    left = iter(found)
    assert all(one in left for one in seen), found  # in this order


def test_a_file_that_cannot_be_opened_again_is_an_error_and_stays_closed(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    for name, log in (
        ("metrics.jsonl", MetricWriters(tmp_path, progress=False, total_steps=9, start_step=0)),
        ("events.jsonl", EventLog(tmp_path, start_step=0)),
    ):
        with monkeypatch.context() as patched, pytest.raises(OSError, match=rf"{name}: .*No space left"):
            patched.setattr(Path, "open", fail)
            log.reopen()
        log.close()
        log.reopen()  # does nothing
