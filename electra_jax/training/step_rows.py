"""Files of rows: one JSON object per line, with the step that it belongs to. They grow by appending."""

import contextlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from data_pipelines.json_files import parse_json

Row = dict[str, Any]
ADVICE = "Repair the file or move it away; the run itself can still be resumed."
Check = Callable[[Row], None]  # raises ValueError for a row with values of another form


def read_rows(path: Path, check: Check) -> list[Row]:
    """Rows in file order, without an incomplete last line; [] without a file.

    Raises:
      ValueError: a damaged line before the last one, or one that `check` rejects; names it.
    """
    return _parse(path, check)[0] if path.exists() else []


def keep_rows(path: Path, check: Check, is_kept: Callable[[Row], bool]) -> None:
    """Remove all other rows and an incomplete last line; a crash leaves the old file or the new one. Raises
    as `read_rows` does."""
    if not path.exists():
        return
    rows, is_incomplete = _parse(path, check)
    kept = [row for row in rows if is_kept(row)]
    if is_incomplete or len(kept) < len(rows):
        rewritten = path.with_name(path.name + ".tmp")
        try:
            with rewritten.open("w", encoding="utf-8") as file:
                file.writelines(json.dumps(row) + "\n" for row in kept)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from error
        rewritten.replace(path)


def append_row(file: TextIO, row: Row) -> None:
    """Write a row and flush it. A crash leaves at most the last line incomplete.

    Raises:
      OSError: the disk is full or gone; the file is closed then.
    """
    try:
        file.write(json.dumps(row, allow_nan=False) + "\n")
        file.flush()
    except OSError as error:
        with contextlib.suppress(OSError):  # closing tries to write the row again
            file.close()
        raise OSError(
            f"{file.name}: a row could not be written: {error}. Free disk space and run the same command "
            "again: it resumes from the newest checkpoint."
        ) from error


def reopened(file: TextIO) -> TextIO:
    """Close a file of rows and open it again for appending. gcsfuse brings a file to its bucket when it is
    closed; flushing it does nothing there, and fsync is not enough for a new file (docs/semantics.md of
    gcsfuse).

    Raises:
      OSError: the disk is full or gone; the file is closed then.
    """
    try:
        file.close()
        return Path(file.name).open("a", encoding="utf-8")
    except OSError as error:
        raise OSError(
            f"{file.name}: it could not be closed and opened again: {error}. Run the same command again: it "
            "resumes from the newest checkpoint."
        ) from error


def _parse(path: Path, check: Check) -> tuple[list[Row], bool]:
    """Rows of the file, and whether its last line lacks its newline. That line is left out unless it is a
    complete row."""
    lines = path.read_bytes().split(b"\n")
    is_incomplete = lines[-1] != b""
    rows = []
    for number, line in enumerate(lines if is_incomplete else lines[:-1], start=1):
        try:
            row = parse_json(line, {"step": float}, str(path))
            row["step"] = int(row["step"])
        except (ValueError, OverflowError) as error:  # OverflowError of infinity
            if number == len(lines):  # an incomplete last line
                break
            raise ValueError(
                f'{path}, line {number}: expected an object with a "step", got {line[:80]!r}. {ADVICE}'
            ) from error
        try:
            check(row)
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}. {ADVICE}") from error
        rows.append(row)
    return rows, is_incomplete
