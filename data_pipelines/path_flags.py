"""Flags that are paths, of every command: a command checks all of them before it reads or writes anything.

A command's PATHS names its flags of this kind, and what each may be. ~ is expanded before
(home_directory.py); URLs are for bucket_flags.py.
"""

import argparse
import os
import stat
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from data_pipelines.bucket_flags import SPELLINGS, check_urls
from data_pipelines.buckets import is_bucket
from data_pipelines.home_directory import parse_arguments
from data_pipelines.problems import Problems

# What a flag names. Whether a file or directory to read exists is for the command to say, which knows what it
# should hold.
DIRECTORY = "a directory"
NEW_DIRECTORY = "a directory to write to"  # may be missing, and the directories above it, too
FILE = "a file"
NEW_FILE = "a file to write"  # whose directories may be missing; it is written last, and renamed
NAME = "a path or a name"  # also a pattern, a list of steps, NAME:STEP, tfds:…

LONGEST_NAME = 255  # bytes, on the file systems of Linux
LONGEST_SHOWN = 80  # letters of a path in an error


def read_arguments(
    parser: argparse.ArgumentParser,
    argv: Sequence[str] | None,
    paths: Mapping[str, str],
    takes_urls: Collection[str] = (),
) -> argparse.Namespace:
    """As `parse_arguments`, with `check_paths` of what is read. Raises ValueError as that does."""
    words = sys.argv[1:] if argv is None else argv
    arguments = parse_arguments(parser, words)
    check_paths(vars(arguments), paths, words, takes_urls)
    return arguments


def check_paths(
    values: Mapping[str, Any],
    paths: Mapping[str, str],
    argv: Sequence[str] = (),
    takes_urls: Collection[str] = (),
) -> None:
    """Check every flag of a command that is a path.

    Args:
      values: flag → value; a configuration is a nested mapping. A value of None or "" is a flag that was not
        given.
      paths: flag → what it names, one of the words above.
      argv: the words behind the command, which tell whether a flag was given an empty path.
      takes_urls: flags, and last parts of configuration keys, that may be a URL of a bucket.

    Raises:
      ValueError: a path is empty, a file and not a directory, or the other way round, cannot be looked up, is
        a new file where this user may not write, or a URL that the flag does not take; names each flag.
    """
    problems = Problems()
    with problems.kept():
        check_urls(values, takes_urls)
    for flag in _given_empty(argv, paths):
        problems.add_text(f"{_spell(flag)}: got an empty path, expected {paths[flag]}. Give its path.")
    for flag, kind in paths.items():
        for text in _texts(values.get(flag)):
            if not is_bucket(text) and kind != NAME and (problem := _problem(text, kind)):
                problems.add_text(f"{_spell(flag)}: got {_shown(text)}, {problem}.")
    problems.report()


def _spell(flag: str) -> str:
    return SPELLINGS.get(flag, f"--{flag}")


def _shown(text: str) -> str:
    return repr(text) if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]!r}…"


def _given_empty(argv: Sequence[str], paths: Mapping[str, str]) -> Iterator[str]:
    """The flags that are given an empty path, in a list too."""
    flag = "directory"  # the only path without a flag
    for word in argv:
        name, equals, value = word.lstrip("-").partition("=") if word.startswith("-") else ("", "", word)
        if name:
            flag = next((known for known in paths if _spell(known) == f"--{name}"), "")
        if flag in paths and (equals or not name) and not value.strip():
            yield flag


def _texts(value: Any) -> list[str]:
    values = value if isinstance(value, list | tuple) else [value]
    return [str(one) for one in values if isinstance(one, str | PurePath) and str(one)]


def _problem(path: str, kind: str) -> str:
    """What is wrong with a path; "" if nothing is."""
    is_directory = kind in (DIRECTORY, NEW_DIRECTORY)
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        if any(len(os.fsencode(part)) > LONGEST_NAME for part in PurePath(path).parts):
            return f"with a name of more than {LONGEST_NAME} bytes. Give a shorter one"
        if kind not in (NEW_DIRECTORY, NEW_FILE):
            return ""
        return _problem_above(path) or (_not_writable(path) if kind == NEW_FILE else "")
    except NotADirectoryError:
        return _problem_above(path)
    except (OSError, ValueError) as error:  # a name that is too long; a zero byte
        return f"which cannot be looked up: {getattr(error, 'strerror', None) or error}. Give another path"
    if is_directory and not stat.S_ISDIR(mode):
        return "a file, expected a directory. Give another path"
    if not is_directory and stat.S_ISDIR(mode):
        return "a directory, expected a file. Give another path"
    is_replaced = kind == NEW_FILE and stat.S_ISREG(mode)
    return _not_writable(path) if is_replaced else ""


def _problem_above(path: str) -> str:
    """The first thing on the way to a path that is no directory."""
    for parent in reversed(PurePath(os.path.abspath(path)).parents):
        if os.path.lexists(parent) and not os.path.isdir(parent):
            what = "leads nowhere" if os.path.islink(parent) and not os.path.exists(parent) else "is a file"
            return f"but {_shown(str(parent))} {what}, expected a directory. Give another path"
    return "" if not os.path.islink(path) else "a link that leads nowhere. Remove it, or give another path"


def _not_writable(path: str) -> str:
    """What is wrong if this user may not make files where a file will be, or in the nearest directory."""
    parent = next(filter(os.path.isdir, map(str, PurePath(os.path.abspath(path)).parents)))
    if os.access(parent, os.W_OK | os.X_OK):
        return ""
    return f"but this user may not write to {_shown(parent)}. Change its permissions, or give another path"
