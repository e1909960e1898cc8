"""Names of files that a file from elsewhere lists: they stay within its directory."""

from pathlib import Path, PurePosixPath, PureWindowsPath


def is_plain_name(name: object) -> bool:
    """Whether `name` is that of a file in a directory: no path, no "..", no control characters."""
    return (
        isinstance(name, str)
        and name not in ("", ".", "..")
        and name.isprintable()
        and PurePosixPath(name).name == name == PureWindowsPath(name).name
    )


def check_plain_name(name: object, listed_in: str | Path) -> str:
    """`name`. Raises ValueError if it is not plain; `listed_in`: the file that names it."""
    if not is_plain_name(name):
        raise ValueError(
            f"{listed_in}: names the file {name!r}, expected the plain name of a file in the same directory. "
            "Fetch the directory again, from a source that you trust."
        )
    return name


def check_relative_name(name: str, listed_in: str) -> str:
    """`name`, which may be in folders. Raises ValueError if it leads out of its directory."""
    for part in name.split("/"):
        check_plain_name(part, listed_in)
    return name
