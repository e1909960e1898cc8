"""The part of a checkpoint that holds the checksums of all others, as an item of Orbax.

Orbax has no checksums of its own that cover every byte: those of OCDBT and of zarr 3 are of indices alone,
not of the arrays' values. So every process computes them for the files that it wrote, when it has written
them; then process 0 adds its own and commits them with the checkpoint, by the same renaming. All of this
happens in the background of a save.
"""

import dataclasses
from collections.abc import Callable, Iterable

import jax
import orbax.checkpoint as ocp
from etils import epath

from electra_jax.training.checksums import (
    CHECKSUMS_FILE,
    Entry,
    OnProgress,
    compute_checksums,
    find_damage,
    read_checksums,
    write_checksums,
)

# The item's name and directory: the last one of the alphabet, since Orbax saves items in its order.
CHECKSUMS = "verification"
# Orbax writes these two after all items: when a checkpoint was written, and that it is complete.
NOT_COVERED = ("_CHECKPOINT_METADATA", "commit_success.txt")
_UNFINISHED = ".orbax-checkpoint-tmp"  # how the names of directories end until they are complete
_MERGED = "manifest.ocdbt"  # of an item: what leads to the arrays of all processes
_SHARE = "the run directory must be on a file system that all hosts mount (NFS, a bucket)"


def checksums_of(checkpoint: epath.Path) -> epath.Path:
    """The file of checksums of a checkpoint."""
    return checkpoint / CHECKSUMS / CHECKSUMS_FILE


def damage_of(checkpoint: epath.Path, on_progress: OnProgress) -> str:
    """What is wrong with the files of a checkpoint, "" if nothing is; raises as `find_damage` does."""
    return find_damage(checkpoint, checksums_of(checkpoint), on_progress)


class ChecksumHandler(ocp.AsyncCheckpointHandler):
    """Writes the item. A CheckpointManager must know it as its last one, since it completes items in that
    order."""

    async def async_save(self, directory: epath.Path, args: "ChecksumSave") -> list[ocp.future.Future]:
        """Returns what computes the checksums of this process's files, once they are written."""
        del args  # there is nothing to copy
        return [_Deferred(lambda: _write_own(directory))]

    def save(self, directory: epath.Path, args: "ChecksumSave") -> None:
        """Compute the checksums of this process's files."""
        del args
        _write_own(directory)

    def restore(self, directory: epath.Path, args: "ChecksumRestore | None" = None) -> dict[str, Entry]:
        """Name → checksums."""
        del args
        return read_checksums(directory / CHECKSUMS_FILE)

    def finalize(self, directory: epath.Path) -> None:
        """Collect what the processes have written; called on process 0, when all have, and after Orbax has
        merged their arrays. An error here leaves the checkpoint incomplete, and earlier ones untouched.

        Raises:
          OSError: files of another process are not seen here, or arrays were not merged.
        """
        checkpoint, entries = directory.parent, {}
        for process in range(jax.process_count()):
            own = directory / _own_name(process)
            if not own.exists():
                raise OSError(f"the files of process {process} are not seen by process 0: {_SHARE}")
            entries |= read_checksums(own)
            own.unlink()
        found = set(_files(checkpoint))
        _check_merged(entries, found)
        others = found - entries.keys() - set(NOT_COVERED)
        names = {name for name in others if not name.startswith(f"{directory.name}/")}
        write_checksums(directory / CHECKSUMS_FILE, entries | compute_checksums(checkpoint, names))


@ocp.args.register_with_handler(ChecksumHandler, for_save=True)
@dataclasses.dataclass
class ChecksumSave(ocp.args.CheckpointArgs):
    """Save checksums of the other items."""


@ocp.args.register_with_handler(ChecksumHandler, for_restore=True)
@dataclasses.dataclass
class ChecksumRestore(ocp.args.CheckpointArgs):
    """Read the checksums."""


class _Deferred:
    """A future of Orbax that begins when its result is asked for: Orbax asks for those of one item after
    another's, and when it comes to this one, all arrays are written."""

    def __init__(self, compute: Callable[[], None]):
        self._compute = compute

    def result(self, timeout: float | None = None) -> None:
        """Compute."""
        del timeout
        self._compute()

    def cancel(self) -> None:
        """Nothing has begun."""


def _own_name(process: int) -> str:
    return f"process_{process}.json"


def _write_own(directory: epath.Path) -> None:
    """Write the checksums of the arrays that this process has written; they are the most bytes by far."""
    process, checkpoint = jax.process_index(), directory.parent
    folder = f"ocdbt.process_{process}/"
    entries = {}
    for item in checkpoint.iterdir():
        if item.is_dir():
            name = item.name.partition(_UNFINISHED)[0]
            own = [file for file in _files(item) if file.startswith(folder)]
            entries |= {f"{name}/{file}": entry for file, entry in compute_checksums(item, own).items()}
    write_checksums(directory / _own_name(process), entries)


def _check_merged(written: Iterable[str], found: set[str]) -> None:
    """Raises OSError unless process 0 has `found` all files of arrays that the processes have `written`, and
    has merged them: Orbax merges what it sees, and does not report that it sees nothing."""
    for name in written:
        item = name.partition("/")[0]
        if name not in found:
            raise OSError(f"the file {name} of another process is not seen by process 0: {_SHARE}")
        if f"{item}/{_MERGED}" not in found:
            raise OSError(f"its arrays were not merged: {item}/{_MERGED} was not written")


def _files(directory: epath.Path) -> list[str]:
    """Names of all files below a directory, relative to it."""
    found: list[str] = []
    for path in directory.iterdir():
        found += [f"{path.name}/{name}" for name in _files(path)] if path.is_dir() else [path.name]
    return found
