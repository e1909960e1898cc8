"""JSON files that are there whole or not at all."""

import json
import os
import uuid
from pathlib import Path
from typing import Any


def write_json(path: Path, value: Any, *, sort_keys: bool = False) -> None:
    """Write `value` under a temporary name, then rename it: a crash never leaves half a file.

    Every call has a temporary name of its own, so two processes may write the same file; the last one wins.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        text = json.dumps(value, indent=2, sort_keys=sort_keys, ensure_ascii=False) + "\n"
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
