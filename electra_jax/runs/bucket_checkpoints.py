"""The checkpoints of a run, wherever it is.

Local directories and gs:// are Orbax's own: on gs:// every process writes its shards, and a checkpoint counts
from the moment its object commit_success.txt appears. To s3:// Orbax cannot write: a checkpoint is saved
locally, uploaded, and completed by an object of the same name.
"""

import contextlib
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from etils import epath

from data_pipelines.buckets import (
    bucket_errors,
    download,
    local_files,
    move,
    remove,
    sizes_under,
    upload,
    write_object,
)
from electra_jax.runs.bucket_runs import CHECKPOINTS, checkpoint_place
from electra_jax.runs.temporary_directories import temporary_directory
from electra_jax.training.checkpointing import Checkpointer, Inspection
from electra_jax.training.kept_checkpoints import within_reach

COMMITTED = "commit_success.txt"


def open_checkpoints(workdir: Path, *, keep: int | None, reach: int = 0) -> Checkpointer:
    """The checkpoints of the run that works in `workdir`; `keep` and `reach` as for `Checkpointer`.

    Raises:
      ValueError: several processes with a run on s3://. OSError: the bucket cannot be read.
    """
    place = checkpoint_place(workdir)
    kinds = {"s3": UploadedCheckpointer, "gs": GoogleCheckpointer}
    return kinds.get(place.partition("://")[0], Checkpointer)(place, keep=keep, reach=reach)


class GoogleCheckpointer(Checkpointer):
    """Checkpoints under gs://, which Orbax writes and reads itself."""

    def _inspect(self, step: int) -> Inspection:
        with bucket_errors(self._directory, "read"):
            return super()._inspect(step)

    def _rename(self, step: int, name: str) -> None:
        _move(self._directory, step, name)


class UploadedCheckpointer(Checkpointer):
    """Checkpoints under a URL that Orbax cannot write to: complete ones are uploaded in the background.

    Args:
      url: of the directory checkpoints.
      keep, reach: as for `Checkpointer`.
    """

    def __init__(self, url: str, *, keep: int | None, reach: int = 0):
        if jax.process_count() > 1:
            raise ValueError(
                f"{url}: got a run of {jax.process_count()} processes, expected one: Orbax cannot write the "
                "shards of several processes to s3://. Use gs://, or a file system that all hosts mount "
                "(FSx, EFS, NFS)."
            )
        self._url, self._keep, self._reach = url, keep or 1, reach
        self._lifetime = contextlib.ExitStack()
        self._local = self._lifetime.enter_context(temporary_directory()) / CHECKPOINTS
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None
        super().__init__(str(self._local), keep=self._keep, reach=reach)
        self._directory = url  # what errors name

    def all_steps(self) -> list[int]:
        """Steps of all complete checkpoints in the bucket, oldest first."""
        names = (name.split("/") for name in sizes_under(self._url))
        return sorted(int(name[0]) for name in names if name[1:] == [COMMITTED] and name[0].isdecimal())

    def save(self, step: int, state: Any, run: dict[str, Any]) -> None:
        """Start to save and to upload, after the upload of the checkpoint before. Raises OSError as
        `Checkpointer.save` does."""
        self.wait()
        super().save(step, state, run)
        self._thread = threading.Thread(target=self._upload, args=(step,), name="upload", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Block until everything is in the bucket; raises OSError as `save` does."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise OSError(
                f"A checkpoint could not be saved: {error} Complete checkpoints in the bucket stay so."
                " Run the same command again: it resumes from the newest."
            ) from error

    def _inspect(self, step: int) -> Inspection:
        self._fetch(step)
        return super()._inspect(step)

    def saved_description(self, step: int) -> dict[str, Any]:
        """As `Checkpointer.saved_description`; without the arrays, which are not copied here for this."""
        url, part = f"{self._url}/{step}", self._local.with_name(f"description.{step}")
        download(url, [name for name in sizes_under(url) if name.startswith("run/")], part)
        return self._described(epath.Path(part))

    def _free_name(self, step: int) -> str:
        return self._first_free(step, {name.split("/")[0] for name in sizes_under(self._url)})

    def _rename(self, step: int, name: str) -> None:
        _move(self._url, step, name)
        shutil.rmtree(self._local / str(step))  # the copy

    def remove(self, step: int) -> None:
        """As `Checkpointer.remove`."""
        self.wait()
        if (self._local / str(step)).is_dir():
            super().remove(step)
        self._remove(lambda name: name == str(step))

    def close(self) -> None:
        with contextlib.suppress(OSError):  # `wait` reports it to who asks
            self.wait()
        super().close()
        self._lifetime.close()

    def _fetch(self, step: int) -> None:
        """Copy a checkpoint here unless it is here."""
        directory = self._local / str(step)
        if not directory.is_dir():
            url = f"{self._url}/{step}"
            unfinished = self._local.with_name(f"unfinished.{step}")
            download(url, sizes_under(url), unfinished)
            unfinished.rename(directory)
            self._manager.reload()

    def _upload(self, step: int) -> None:
        """Upload a checkpoint, complete it, and remove those that are too many or were never completed."""
        try:
            super().wait()
            url, directory = f"{self._url}/{step}", self._local / str(step)
            self._remove(lambda name: name == str(step))  # what an earlier start did not complete
            # Orbax writes a file of that name here, too: it must not come before the arrays.
            upload(directory, local_files(directory, lambda name: name != COMMITTED), url)
            write_object(f"{url}/{COMMITTED}", b"complete\n")
            steps = self.all_steps()
            reached = within_reach(steps, self._reach) if self._reach else set()
            kept = [str(one) for one in {*steps[-self._keep :], *reached}]
            # What was set aside is no number.
            self._remove(lambda step: step.isdecimal() and step not in kept)
        except Exception as error:
            self._error = error

    def _remove(self, is_removed: Callable[[str], bool]) -> None:
        """Remove checkpoints from the bucket, by their names; first what makes them count: a
        process that is killed here leaves no checkpoint that lacks a part."""
        names = [name for name in sizes_under(self._url) if is_removed(name.split("/")[0])]
        remove(self._url, sorted(names, key=lambda name: not name.endswith(f"/{COMMITTED}")))


def _move(url: str, step: int, name: str) -> None:
    """Give a checkpoint in a bucket another name."""
    names = sorted(sizes_under(f"{url}/{step}"), key=lambda one: one != COMMITTED)
    move(f"{url}/{step}", names, f"{url}/{name}")
