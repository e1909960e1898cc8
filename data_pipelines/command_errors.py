"""How every command ends when it cannot do what it was asked: a message on stderr, and exit code 1."""

import contextlib
import sys
from collections.abc import Iterator, Sequence

PREFIX = "error: "
# What a person can act on: wrong settings, files that are missing or damaged, packages that are not
# installed, numbers that are not finite. Anything else is a fault of the program and keeps its traceback.
EXPECTED = (ValueError, OSError, ImportError, FloatingPointError)


@contextlib.contextmanager
def errors_on_the_terminal() -> Iterator[None]:
    """Context of a command's work: an EXPECTED error becomes its message, without a traceback."""
    try:
        yield
    except EXPECTED as error:
        sys.exit(f"{PREFIX}{error}")


def shorten(items: Sequence[str], max_shown: int = 4, separator: str = ", ") -> str:
    """The first items as text, and how many more there are."""
    rest = [f"… and {len(items) - max_shown} more"] if len(items) > max_shown else []
    return separator.join([*items[:max_shown], *rest])
