"""JSON files: read with bounded size and depth and of an expected form, written complete or not at all.

A form describes the values that a reader can use:

    dict, str, …                    a value of that type; int is not bool, float may be whole, to 1e308
    (str, type(None))               one of several
    {"a": int, "b": Maybe(str)}     an object with the key "a", and perhaps "b"; other keys are left alone
    {str: int}                      an object with any keys, whose values are whole numbers
    [str]                           a list of strings
    [int, int]                      a list of exactly two values, each of the form at its place
    object                          anything
"""

import contextlib
import json
import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from data_pipelines.whole_files import write_text

MAX_BYTES = 1 << 25  # of a file, unless its reader expects more: text of many lists takes 20 times its size
MAX_DEPTH = 100  # lists and objects within each other; what walks the value later may be recursive
MAX_KEYS_SHOWN = 8
ADVICE = "Restore the file."
TYPE_NAMES = {
    dict: "an object",
    list: "a list",
    str: "a string",
    int: "a whole number",
    bool: "true or false",
    type(None): "null",
}

EXPECTED_NAMES = TYPE_NAMES | {float: "a number"}  # of forms


class Maybe(NamedTuple):
    """The form of a key that may be missing."""

    form: Any


def type_name(value: Any) -> str:
    """The type of a value from a JSON file, for error messages."""
    return TYPE_NAMES.get(type(value), f"a {type(value).__name__}")


def read_json(
    path: str | os.PathLike, form: Any = object, *, advice: str = ADVICE, max_bytes: int = MAX_BYTES
) -> Any:
    """The value in a JSON file.

    Args:
      form: see the head of this module.
      advice: the last sentence of errors, which tells how to mend the file.

    Raises:
      OSError: it cannot be opened.
      ValueError: not a regular file, more than `max_bytes`, not JSON in UTF-8, nested too deep, or of another
        form.
    """
    return parse_json(read_bytes(path, max_bytes, advice), form, str(path), advice)


def read_bytes(path: str | os.PathLike, max_bytes: int, advice: str = ADVICE) -> bytes:
    """The content of a regular file of at most `max_bytes`. Raises as `read_json` does."""
    if not stat.S_ISREG(os.stat(path).st_mode) and not Path(path).is_dir():  # which has an error of its own
        raise ValueError(f"{path}: got a pipe or a device, expected a regular file. {advice}")
    with open(path, "rb") as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise ValueError(
            f"{path}: got more than {max_bytes:,} bytes, the most that is read of such a file. {advice}"
        )
    return data


def parse_json(data: str | bytes, form: Any, where: str, advice: str = ADVICE) -> Any:
    """The value of a JSON text.

    Args:
      where: what holds the text, with which errors begin: the path of a file, or that and a line.

    Raises:
      ValueError: as `read_json`.
    """
    try:
        text = data.decode("utf-8-sig") if isinstance(data, bytes) else data
        value = json.loads(text)
        is_too_deep = _is_deeper(value, text)
    except RecursionError:
        is_too_deep = True
    except ValueError as error:
        raise ValueError(f"{where}: not valid JSON ({_shortened(str(error))}). {advice}") from error
    if is_too_deep:
        raise ValueError(
            f"{where}: not valid JSON here (lists or objects nested more than {MAX_DEPTH} deep). {advice}"
        )
    check_form(value, form, where, advice)
    return value


def check_form(value: Any, form: Any, where: str, advice: str = ADVICE) -> None:
    """Raises ValueError if a value from JSON has another form; names its place in `where`."""
    if problem := misfit(value, form):
        raise ValueError(f"{where}: {problem}. {advice}")


def read_json_lines(path: str | os.PathLike, form: Any, *, advice: str = ADVICE) -> list[Any]:
    """The values of a file with one JSON value on each line; [] without a file.

    Lines that are no JSON are left out: a crash may leave one incomplete.

    Raises:
      ValueError: the value of a line has another form; names file and line.
    """
    values = []
    lines = Path(path).read_bytes().splitlines() if Path(path).is_file() else ()
    for number, line in enumerate(lines, 1):
        where = f"{path}, line {number}"
        try:
            value = parse_json(line, object, where)
        except ValueError:
            continue
        check_form(value, form, where, advice)
        values.append(value)
    return values


@contextlib.contextmanager
def misread(where: str | os.PathLike, advice: str = ADVICE) -> Iterator[None]:
    """Context of code that takes the values of a file for what this version writes. What it then raises of
    missing keys and of other types becomes a ValueError; that and others begin with the file's name."""
    try:
        yield
    except ValueError as error:
        if str(error).startswith(str(where)):
            raise
        raise ValueError(f"{where}: {error}") from error
    except (KeyError, TypeError, AttributeError, IndexError, OverflowError) as error:
        what = f"no {error}" if type(error) is KeyError else _shortened(str(error))
        raise ValueError(f"{where}: values of another form than expected ({what}). {advice}") from error


def write_json(path: Path, value: Any, *, sort_keys: bool = False, makes_directories: bool = False) -> None:
    """Write `value` in one go (see `written_whole`): a crash never leaves half a file.

    Names of files may hold lone surrogates, for bytes that are not UTF-8. Those become JSON's own escapes.

    Args:
      makes_directories: make those above `path` that are missing.
    """
    if makes_directories:
        path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(value, indent=2, sort_keys=sort_keys, ensure_ascii=False) + "\n"
    write_text(path, text.encode("utf-8", "backslashreplace").decode("utf-8"))


def _is_deeper(value: Any, text: str) -> bool:
    """Whether a value is nested more than MAX_DEPTH deep. `text`: with few brackets it cannot be."""
    if text.count("[") + text.count("{") <= MAX_DEPTH:
        return False
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            child
            for one in level
            for child in (one.values() if isinstance(one, dict) else one)
            if isinstance(child, dict | list)
        ]
        if not level:
            return False
    return True


def misfit(value: Any, form: Any, place: str = "") -> str:
    """What is wrong with a value from JSON, "" if it has the form. `place`: its keys from the top."""
    at = f" at {place}" if place else ""
    if isinstance(form, type | tuple):
        return "" if _is_of(value, form) else f"got {_shown(value)}{at}, expected {_expected(form)}"
    if not isinstance(value, type(form)):
        return f"got {_shown(value)}{at}, expected {TYPE_NAMES[type(form)]}"
    if isinstance(form, list):
        forms = form * len(value) if len(form) == 1 else form
        if len(forms) != len(value):
            return f"got a list of {len(value)}{at}, expected one of {len(forms)}"
        children = [
            (f"{place}[{number}]", *pair) for number, pair in enumerate(zip(value, forms, strict=True))
        ]
    elif str in form:
        children = [(f"{place}.{key}".lstrip("."), child, form[str]) for key, child in value.items()]
    else:
        missing = [key for key, child in form.items() if key not in value and not isinstance(child, Maybe)]
        if missing:
            found = [*map(repr, sorted(value)[:MAX_KEYS_SHOWN]), *["…"] * (len(value) > MAX_KEYS_SHOWN)]
            return f"no {' and no '.join(map(repr, missing))}{at}, found {', '.join(found) or 'no keys'}"
        children = [
            (f"{place}.{key}".lstrip("."), value[key], child.form if isinstance(child, Maybe) else child)
            for key, child in form.items()
            if key in value
        ]
    return next(filter(None, (misfit(child, wanted, name) for name, child, wanted in children)), "")


def _is_of(value: Any, form: type | tuple[type, ...]) -> bool:
    types = form if isinstance(form, tuple) else (form,)
    if isinstance(value, bool):
        return bool in types or object in types
    # A whole number that no float reaches would be an error of the code that computes with it.
    is_float = isinstance(value, int) and abs(value) <= sys.float_info.max
    return isinstance(value, types) or (float in types and is_float)


def _expected(form: type | tuple[type, ...]) -> str:
    return " or ".join(EXPECTED_NAMES[one] for one in (form if isinstance(form, tuple) else (form,)))


def _shown(value: Any) -> str:
    """A value for people: its type if it is long."""
    return type_name(value) if isinstance(value, dict | list) else _shortened(repr(value))


def _shortened(text: str) -> str:
    return text if len(text) <= 100 else f"{text[:100]}…"
