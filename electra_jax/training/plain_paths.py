"""Paths that every library underneath can use, for directories with any name.

Orbax looks for the files of a checkpoint with a glob pattern into which its directory is put unescaped: below
"sweep[2]" it finds none, leaves the files unmerged and reports nothing. TensorStore takes text alone, so a
name whose bytes are not UTF-8 is an error there. Linux gives an open directory a second name without any of
these characters, /proc/self/fd/NUMBER, which holds as long as the directory is open.
"""

import os
import re
from pathlib import Path

_SPECIAL = re.compile(r"[*?\[\ud800-\udfff]")  # of glob patterns; the bytes of a name that is not UTF-8
OPEN_DIRECTORIES = Path("/proc/self/fd")


class PlainPath:
    """Another path of a directory, without special characters; the path itself if it has none.

    Attributes:
      original: the directory's own path, absolute.
      path: the other one. It holds until `close`, in this process alone.
    """

    def __init__(self, directory: str, *, create: bool):
        """Open `directory` if its path needs it.

        Args:
          directory: a path on this machine, or the URL of a bucket, which is kept.
          create: make the directory if it is missing. Otherwise a missing one keeps its own path.

        Raises:
          ValueError: the path has special characters, and there is no other one here. OSError: it cannot be
            opened.
        """
        self._descriptor: int | None = None
        check_checkpoint_path(directory)
        self.original = self.path = directory if "://" in directory else os.path.abspath(directory)
        if not find_special(self.path):
            return
        if create:
            os.makedirs(self.path, exist_ok=True)
        elif not os.path.isdir(self.path):
            return
        self._descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        self.path = str(OPEN_DIRECTORIES / str(self._descriptor))

    def close(self) -> None:
        """Give the second name back."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def check_checkpoint_path(directory: str) -> None:
    """Raises ValueError if checkpoints in `directory` would be lost, and this system has no second name."""
    is_url = "://" in directory
    absolute = directory if is_url else os.path.abspath(directory)
    found = find_special(absolute)
    if found and (is_url or not OPEN_DIRECTORIES.is_dir()):
        shown = ", ".join(ascii(character) for character in found)
        raise ValueError(
            f"{absolute!a}: got {shown} in the path of a run, expected none of * ? [ and only UTF-8: the "
            "library that writes checkpoints would lose them there. Give another --workdir or --out."
        )


def check_may_write(directory: str) -> None:
    """Raises PermissionError if checkpoints could not be saved, which a run would find out hours later. A
    directory that is missing, or in a bucket, is not looked at."""
    if os.path.isdir(directory) and not os.access(directory, os.W_OK | os.X_OK):
        raise PermissionError(
            f"{directory}: this user may not write there, so that no checkpoint could be saved. Give this "
            "user the right to write, or use another --workdir."
        )


def find_special(path: str) -> list[str]:
    """The characters of a path that Orbax or TensorStore cannot take, each once."""
    return sorted(set(_SPECIAL.findall(path)))
