"""The flags of commands that read documents: how records are read, and how many processes work."""

import os
from collections.abc import Callable

from data_pipelines.command_parsers import DEFAULT
from data_pipelines.documents import DOCUMENT_SEPARATORS, MAX_RECORD_BYTES, ON_INVALID_UTF8
from data_pipelines.number_arguments import whole


def add_record_flags(add: Callable) -> None:
    """--text_field, --max_record_bytes and --on_invalid_utf8, by a parser's `add_argument`."""
    add(
        "--text_field",
        default="text",
        metavar="NAME",
        help=f"field of JSON lines, Parquet and TFDS documents {DEFAULT}",
    )
    add(
        "--max_record_bytes",
        type=int,
        default=MAX_RECORD_BYTES,
        metavar="N",
        help=f"skip longer JSON lines, and longer texts of Parquet and TFDS; they are counted {DEFAULT}",
    )
    add(
        "--on_invalid_utf8",
        choices=ON_INVALID_UTF8,
        default=ON_INVALID_UTF8[0],
        help=f"stop, skip the line, or replace the invalid bytes by U+FFFD {DEFAULT}",
    )


def add_separator_flag(add: Callable) -> None:
    """--document_separator."""
    add(
        "--document_separator",
        choices=DOCUMENT_SEPARATORS,
        default=DOCUMENT_SEPARATORS[0],
        help=f"what ends a document of a .txt file {DEFAULT}",
    )


def add_processes_flag(add: Callable) -> None:
    """--num_processes."""
    add(
        "--num_processes",
        type=whole(1, 4096),
        default=os.cpu_count(),
        metavar="N",
        help="worker processes (default: all cores)",
    )
