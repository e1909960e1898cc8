"""The argument of a configuration file: what follows the colon of --config=FILE.py:key=value,key=value."""

from pathlib import Path
from typing import Any

from data_pipelines.buckets import bucket_url, is_bucket, read_object
from data_pipelines.json_files import parse_json, read_json


def parse_recipe_argument(arg: str | None, **defaults: str) -> dict[str, str]:
    """The values of the argument; a key that it does not name keeps its default.

    Raises:
      ValueError: a key that has no default.
    """
    chosen = dict(defaults)
    for item in filter(None, (arg or "").split(",")):
        key, _, value = item.partition("=")
        if key not in defaults:
            raise ValueError(
                f"config argument: got {item!r}, expected {', '.join(f'{k}=…' for k in defaults)}."
            )
        chosen[key] = value
    return chosen


def read_run_description(run: str) -> dict[str, Any] | None:
    """The config.json of the run that an argument names, a directory or its URL in a bucket; None if it has
    none.

    Raises:
      OSError: the bucket cannot be read. ValueError: the file is damaged.
    """
    try:
        if is_bucket(run):
            url = f"{bucket_url(run)}/config.json"
            return parse_json(read_object(url), dict, url)
        return read_json(Path(run, "config.json"), dict)
    except (FileNotFoundError, NotADirectoryError):
        return None
