"""One collector for everything that is wrong with a start, so that a user learns all of it at once.

problems = Problems()
with problems.kept():
    check_one_thing(config)
with problems.kept():
    check_another(config)
problems.report()
"""

import contextlib
from collections.abc import Iterator


class SeveralProblemsError(ValueError):
    """More than one thing is wrong. `errors`: an error for each."""

    def __init__(self, errors: list[Exception]):
        lines = [f"{number}. {error}" for number, error in enumerate(errors, start=1)]
        super().__init__("\n".join([f"{len(errors)} things are wrong:", *lines]))
        self.errors = errors


def errors_in(error: Exception) -> list[Exception]:
    """The errors that an error of several things has; of another error, itself."""
    return error.errors if isinstance(error, SeveralProblemsError) else [error]


class Problems:
    """Errors of independent checks."""

    def __init__(self):
        self._errors: list[Exception] = []

    def __bool__(self) -> bool:
        return bool(self._errors)

    def add(self, error: Exception) -> None:
        """Keep an error, or those that a `SeveralProblemsError` has, unless their messages are known."""
        for one in errors_in(error):
            if str(one) not in map(str, self._errors):
                self._errors.append(one)

    def add_text(self, message: str) -> None:
        """Keep a ValueError with this message."""
        self.add(ValueError(message))

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """Context of a check, which ends at its first ValueError or OSError; that error is kept."""
        try:
            yield
        except (ValueError, OSError) as error:
            self.add(error)

    def report(self) -> None:
        """Raise what has been kept: a single error unchanged, several as a `SeveralProblemsError`."""
        if len(self._errors) > 1:
            raise SeveralProblemsError(self._errors)
        if self._errors:
            raise self._errors[0]
