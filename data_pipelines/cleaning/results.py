"""The finished files of a cleaning, from those of its pieces and the duplicates among them."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_pipelines.cleaning.duplicate_search import Duplicate
from data_pipelines.cleaning.examples import Examples
from data_pipelines.cleaning.pieces import DROPPED, KEPT, LINES, RECORD_FORM, to_line
from data_pipelines.json_files import parse_json
from data_pipelines.whole_files import named_errors


def write_results(
    path: str, directory: Path, number: int, duplicates: dict[int, Duplicate]
) -> dict[str, Any]:
    """Write kept-NUMBER.jsonl, dropped-NUMBER.jsonl and removed_lines-NUMBER.jsonl, unless they are empty.

    Args:
      path: of the piece's files, without endings.
      directory: for the finished files.
      duplicates: by their place among the kept documents of the piece.

    Returns:
      Counts and examples of the duplicates, which are with the dropped documents now, and of the lines.

    Raises:
      OSError: a file could not be written.
    """
    name = lambda kind: directory / f"{kind}-{number:05d}.jsonl"
    counts = _Counts()
    with _Writer(name("kept")) as kept, _Writer(name("dropped")) as dropped:
        for line in _lines(path + DROPPED):
            dropped.write(line)
        for place, line in enumerate(_lines(path + KEPT)):
            duplicate = duplicates.get(place)
            if duplicate is None:
                kept.write(line)
            else:
                dropped.write(_with_reason(line, duplicate, counts))
    with _Writer(name("removed_lines")) as lines:
        for line in _lines(path + LINES):
            record = _parsed(line)
            if (record["source"], record["document"]) not in counts.gone:  # the whole document is gone
                counts.removed_lines[record["reason"]] += 1
                counts.examples.add(record["reason"], record)
                lines.write(line)
    return {
        "dropped": dict(counts.dropped),
        "characters": counts.characters,
        "removed_lines": dict(counts.removed_lines),
        "examples": counts.examples.chosen,
    }


class _Counts:
    """What is counted while the files of a piece are written."""

    def __init__(self):
        self.dropped, self.removed_lines, self.examples = Counter(), Counter(), Examples()
        self.characters = 0  # of duplicates
        self.gone: set[tuple[str, int]] = set()  # sources and numbers of duplicates


def _with_reason(line: bytes, duplicate: Duplicate, counts: _Counts) -> bytes:
    """The line of a duplicate among the dropped documents; it is counted."""
    record = _parsed(line)
    record |= {
        "reason": duplicate.reason,
        "value": f"{duplicate.similarity:.3f}",
        "duplicate_of": {"source": duplicate.source, "document": duplicate.document},
    }
    counts.dropped[duplicate.reason] += 1
    counts.characters += len(record["text"])
    counts.gone.add((record["source"], record["document"]))
    counts.examples.add(duplicate.reason, record)
    return to_line(record).encode()


def _parsed(line: bytes) -> dict[str, Any]:
    return parse_json(line, RECORD_FORM, "a file of a piece", "Give the same command again.")


def _lines(path: str) -> Iterator[bytes]:
    with open(path, "rb") as file:
        yield from file


class _Writer:
    """A file that is made when something is written to it."""

    def __init__(self, path: Path):
        self._path, self._file = path, None

    def write(self, data: bytes) -> None:
        with named_errors(self._path):
            if self._file is None:
                self._file = open(self._path, "wb")  # noqa: SIM115 — closed by __exit__
            self._file.write(data)

    def __enter__(self) -> "_Writer":
        return self

    def __exit__(self, *exception) -> None:
        if self._file is not None:
            with named_errors(self._path):
                self._file.close()


def merged(pieces: list[dict[str, Any]], duplicates: list[dict[str, Any]]) -> dict[str, Any]:
    """The counts of all pieces together, as in cleaning.json, and the examples apart under "examples"."""
    examples, dropped = Examples(), Counter()
    sums = {name: sum(piece[name] for piece in pieces) for name in ("documents", "characters")}
    kept = sum(piece["kept"] for piece in pieces) - sum(sum(one["dropped"].values()) for one in duplicates)
    characters = sum(piece["kept_characters"] for piece in pieces)
    removed, changes = Counter(), Counter()
    for piece in pieces:
        changes.update(piece["changes"])
    for one in duplicates:
        removed.update(one["removed_lines"])
    for one in (*pieces, *duplicates):
        dropped.update(one["dropped"])
        examples.merge(one["examples"])
    return {
        **sums,
        "kept": kept,
        "kept_characters": characters - sum(one["characters"] for one in duplicates),
        "dropped": dict(sorted(dropped.items())),
        "removed_lines": dict(sorted(removed.items())),
        "changes": dict(sorted(changes.items())),
        "examples": examples.chosen,
    }
