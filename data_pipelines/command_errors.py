"""How every command ends when it cannot do its work: a message on stderr, and exit code 1."""

import contextlib
import sys
import zipfile
from collections.abc import Iterator, Sequence

PREFIX = "error: "
# What a person can act on: wrong settings, missing or damaged files, packages that are not installed, numbers
# that are not finite. Anything else is a fault of the program and keeps its traceback.
EXPECTED = (ValueError, OSError, ImportError, FloatingPointError, zipfile.BadZipFile)


@contextlib.contextmanager
def errors_on_the_terminal() -> Iterator[None]:
    """Context or decorator of a command's work: of an EXPECTED error only the message is shown."""
    try:
        yield
    except EXPECTED as error:
        sys.exit(f"{PREFIX}{error}")


def shorten(items: Sequence[str], max_shown: int = 4, separator: str = ", ") -> str:
    """The first items as text, and how many more there are."""
    rest = [f"… and {len(items) - max_shown} more"] if len(items) > max_shown else []
    return separator.join([*items[:max_shown], *rest])
