"""Records, one for each input, and how they are written: JSON lines, or a table between tabs."""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from data_pipelines.tasks.unlabelled import Unlabelled
from data_pipelines.whole_files import printable

Record = dict[str, Any]
DIGITS = 6  # of numbers, significant


class Table(NamedTuple):
    """How records become lines of a table."""

    header: tuple[str, ...]  # () for none
    rows: Callable[[Record], list[list[Any]]]  # record → its lines, each a list of fields


def one_line(*columns: str) -> Table:
    """A table with a line for each record, of these fields; one that a record lacks is empty."""
    return Table(columns, lambda record: [[record.get(name) for name in columns]])


def texts_of(one: Unlabelled) -> Record:
    """The text or the pair of texts of an input."""
    return {"text": one.text} | ({} if one.pair is None else {"pair": one.pair})


def number(value: float) -> float:
    """`value` with DIGITS digits."""
    return float(f"{float(value):.{DIGITS}g}")


def json_line(record: Mapping[str, Any]) -> str:
    """A record as a line of JSON. Its fields may have halves of surrogate pairs, which no encoding takes."""
    return printable(json.dumps(record, ensure_ascii=False, allow_nan=False)) + "\n"


def table_lines(table: Table, record: Record) -> str:
    """A record as lines of a table."""
    return "".join("\t".join(map(_field, row)) + "\n" for row in table.rows(record))


def _field(value: Any) -> str:
    """A field of a table: tabs and ends of lines in it become blanks."""
    if value is None:
        return ""
    return f"{value:.{DIGITS}g}" if isinstance(value, float) else re.sub(r"[\t\r\n]+", " ", str(value))
