"""~ in flags and configurations. The shell expands it where it starts a word, but not in --out=~/x."""

import argparse
import os
import re
import sys
from collections.abc import Sequence
from typing import Any

# At the start of a text, or of a value in it: --out=~/x, random:~/x, ~/x,~/y, ('~/x', '~/y').
_HOME = re.compile(r"""(?:^|(?<=[=,:'"(\[])|(?<=, ))~([\w.-]*)(?=(/)|[,:'")\]]|$)""")


def expand_home(text: str) -> str:
    """`text` with the home directories that ~ and ~NAME stand for.

    Raises:
      ValueError: there is no such home directory. (A ~NAME without a slash behind it is then a file's name.)
    """

    def replace(match: re.Match[str]) -> str:
        expanded = os.path.expanduser(match[0])
        if expanded != match[0]:
            return expanded
        if match[1] and not match[2]:
            return match[0]
        reason = f"there is no user {match[1]!r}" if match[1] else "HOME is not set"
        raise ValueError(
            f"{text}: got {match[0]} for a home directory, but {reason}. Write the whole path, or ./~ for a "
            "file of that name."
        )

    return _HOME.sub(replace, text) if "~" in text else text


def expand_home_in(value: Any) -> Any:
    """`value` with `expand_home` of every text in its lists, tuples and dictionaries."""
    if isinstance(value, str):
        return expand_home(value)
    if isinstance(value, dict):
        return {key: expand_home_in(child) for key, child in value.items()}
    return type(value)(map(expand_home_in, value)) if type(value) in (list, tuple) else value


def parse_arguments(parser: argparse.ArgumentParser, argv: Sequence[str] | None = None) -> argparse.Namespace:
    """As `parser.parse_args`, with `expand_home` of every argument; a mistake ends the program as there."""
    try:
        return parser.parse_args(expand_home_in(list(sys.argv[1:] if argv is None else argv)))
    except ValueError as error:
        parser.error(str(error))
