"""Which flags and configuration keys take a URL of a bucket: a command refuses all others before it writes
anything, since Python would take gs://b/x for a local directory named "gs:"."""

import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import PurePath
from typing import Any

from data_pipelines.buckets import bucket_url, is_bucket

SPELLINGS = {"source": "--from", "recipe": "--config", "directory": "DIR"}  # of argparse's names
FREE_TEXT = ("license", "data_license", "language")  # flags that may hold the address of a web page
_OTHER_STORES = (
    "gcs|s3a|s3n|az|azure|abfs|abfss|adl|wasb|wasbs|hdfs|hf|dbfs|oss|cos|r2|b2|file|http|https|ftp|sftp|ssh"
)
# A scheme at the beginning or after a separator (random:gs://b/x, train=gs://b/x, a list). argparse's Path
# leaves one slash of two, so the known schemes count with one slash, too.
_URL = re.compile(
    rf"(?<![\w+./-])(?:[a-z][a-z0-9+.-]+://|(?:gs|s3|{_OTHER_STORES}):/(?=[^/]))[^\s,'\"]*", re.IGNORECASE
)


def check_urls(values: Mapping[str, Any], takes: Collection[str] = ()) -> None:
    """Check every URL among the values of a command's flags.

    Args:
      values: flag → value; a configuration is a nested mapping.
      takes: flags, and last parts of configuration keys, that may be a URL of a bucket.

    Raises:
      ValueError: a flag that takes no bucket has a URL, a scheme other than gs and s3, or a URL without a
        directory in a bucket.
    """
    for key, text in _texts(values, ""):
        name = key.rpartition(".")[2].lstrip("-")
        if name in FREE_TEXT:
            continue
        for found in _URL.finditer(text):
            url = re.sub(r"^(\w+):/{1,2}", r"\1://", found[0])
            flag = key if key.startswith("config.") else SPELLINGS.get(key, f"--{key}")
            if name not in takes or not is_bucket(url):
                raise ValueError(refusal(flag, url, takes))
            try:
                bucket_url(url)
            except ValueError as error:
                raise ValueError(f"{flag}: {error}") from error


def refusal(flag: str, url: str, takes: Collection[str]) -> str:
    """What a command that cannot use a URL answers, with the ways around it."""
    scheme = url.partition(":")[0].lower()
    others = sorted(takes)
    if "@" in url.partition("://")[2].partition("/")[0]:
        url = f"{scheme}://…"  # it may hold a password
    instead = f" In this command only {', '.join(others)} may be gs://… or s3://…." if others else ""
    return (
        f"{flag}: got {url!r}, expected a path of a file system.{instead} Mount the bucket (gs://: gcsfuse; "
        "s3://: mountpoint-s3 to read, `rclone mount --vfs-cache-mode=full` to write) and give the path "
        "below the mount, or copy the files (`gcloud storage cp -r`, `aws s3 cp --recursive`)."
    )


def _texts(value: Any, key: str) -> Iterator[tuple[str, str]]:
    """(key, text) of every string in nested values."""
    if isinstance(value, Mapping):
        for name, child in value.items():
            yield from _texts(child, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list | tuple | set):
        for child in value:
            yield from _texts(child, key)
    elif isinstance(value, str | PurePath):
        yield key, str(value)
