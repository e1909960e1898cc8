"""What a command that only reads a run makes of checkpoints that a rollback undid: a process that was killed
before it removed them left them behind."""

import contextlib
import json
import re
import shutil

import jax.numpy as jnp
import pytest

from electra_jax.runs import bucket_checkpoints
from electra_jax.runs.bucket_checkpoints import UploadedCheckpointer
from electra_jax.runs.rollbacks import Rollback, describe_rollbacks, record_rollback
from electra_jax.runs.trained import checkpoint_fingerprint, find_step
from electra_jax.training.checkpointing import Checkpointer

FIRST, SECOND = Rollback(25, 20, "one"), Rollback(40, 31, "two")


@pytest.fixture
def workdir(tmp_path):
    """A run with checkpoints of steps 10, 20, 30 and 40; from step 30 on they know of the first rollback."""
    with contextlib.closing(Checkpointer(str(tmp_path / "checkpoints"), keep=9)) as checkpointer:
        for step in (10, 20, 30, 40):
            description = describe_rollbacks({}, (FIRST,) if step >= 30 else ())
            checkpointer.save(step, {"params": {"bias": jnp.zeros(2)}}, description | {"config": {}})
    return tmp_path


@pytest.mark.parametrize(
    ("rollbacks", "undone"),
    [((), []), ((FIRST,), []), ((FIRST, SECOND), [40]), ((FIRST, Rollback(41, 5, "")), [10, 20, 30, 40])],
)
def test_a_reader_takes_no_checkpoint_that_was_undone(rollbacks, undone, workdir):
    if rollbacks:
        record_rollback(workdir, rollbacks)
    before = sorted(workdir.rglob("*"))
    steps = [step for step in (10, 20, 30, 40) if step not in undone]
    assert [find_step(workdir, step) for step in steps] == steps
    if steps:
        assert find_step(workdir, None) == max(steps)
    message = (
        rf"found those of {re.escape(str(steps))}\. rollbacks\.json undid those of {re.escape(str(undone))}\."
    )
    for step in undone if steps else (*undone, None):
        for read in (find_step, checkpoint_fingerprint):
            with pytest.raises(FileNotFoundError, match=message):
                read(workdir, step)
    assert sorted(workdir.rglob("*")) == before


def test_a_damaged_checkpoint_hides_no_undone_one(workdir):
    record_rollback(workdir, (FIRST, Rollback(41, 25, "three")))
    (workdir / "checkpoints" / "40" / "run" / "metadata").write_text("{")
    assert find_step(workdir, None) == 40  # reading it is an error that names its damage
    with pytest.raises(
        FileNotFoundError, match=r"found those of \[10, 20, 40\]\. rollbacks\.json undid .*\[30\]"
    ):
        find_step(workdir, 30)


def test_a_description_in_a_bucket_is_read_without_the_arrays(workdir, monkeypatch):
    root, url, copied = workdir / "checkpoints", "s3://bucket/run/checkpoints", []
    place = lambda one: root / one.removeprefix(url).strip("/")

    def sizes_under(one):
        files = [path for path in place(one).rglob("*") if path.is_file()]
        return {str(path.relative_to(place(one))): path.stat().st_size for path in files}

    def download(one, names, directory):
        for name in names:
            copied.append(name)
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(place(one) / name, directory / name)

    monkeypatch.setattr(bucket_checkpoints, "sizes_under", sizes_under)
    monkeypatch.setattr(bucket_checkpoints, "download", download)
    with contextlib.closing(UploadedCheckpointer(url, keep=None)) as checkpointer:
        assert checkpointer.saved_description(40)["rollbacks"] == [list(FIRST)]
        assert "rollbacks" not in checkpointer.saved_description(20)
        assert checkpointer.saved_description(50) == {}
    assert copied and all(name.startswith("run/") for name in copied)


def test_the_rollbacks_of_another_run_are_an_error(workdir):
    (workdir / "rollbacks.json").write_text(json.dumps([{"step": 9, "to": 3, "because": ""}]))
    with pytest.raises(ValueError, match="the checkpoint of step 40 has others"):
        find_step(workdir, None)
