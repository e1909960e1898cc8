"""JSON files that exist complete or not at all, and names of JSON's types for people."""

import json
from pathlib import Path
from typing import Any

from data_pipelines.whole_files import write_text

TYPE_NAMES = {
    dict: "an object",
    list: "a list",
    str: "a string",
    int: "a whole number",
    bool: "true or false",
    type(None): "null",
}


def type_name(value: Any) -> str:
    """The type of a value from a JSON file, for error messages."""
    return TYPE_NAMES.get(type(value), f"a {type(value).__name__}")


def write_json(path: Path, value: Any, *, sort_keys: bool = False) -> None:
    """Write `value` in one go (see `written_whole`): a crash never leaves half a file.

    Names of files may hold lone surrogates, for bytes that are not UTF-8. Those become JSON's own escapes.
    """
    text = json.dumps(value, indent=2, sort_keys=sort_keys, ensure_ascii=False) + "\n"
    write_text(path, text.encode("utf-8", "backslashreplace").decode("utf-8"))
