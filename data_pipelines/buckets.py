"""Directories in object stores, gs://BUCKET/DIR and s3://BUCKET/DIR, through fsspec (the extra `buckets`).

An object appears whole or not at all, and cannot grow. So files are copied whole in both directions, and work
is done on local copies.
"""

import contextlib
import errno
import logging
import os
import re
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePath
from typing import Any
from urllib.parse import urlsplit

from data_pipelines.installation import install_command
from data_pipelines.plain_names import check_relative_name
from data_pipelines.progress import make_progress

SCHEMES = ("gs", "s3")
_URL = re.compile(r"(gs|s3):/{1,2}(?=[^/])", re.IGNORECASE)
# What the stores' clients write where permission is missing, beside PermissionError.
_DENIED = re.compile(
    r"forbidden|access ?denied|anonymous caller|credential|unauthorized|\b40[13]\b", re.IGNORECASE
)


def is_bucket(place: str | PurePath) -> bool:
    """Whether `place` is a URL of a bucket and not a local path."""
    return _URL.match(str(place)) is not None


def bucket_url(place: str | PurePath) -> str:
    """The URL as scheme://BUCKET/DIR, without slashes at its end; a Path writes it with one slash.

    Raises:
      ValueError: it names no bucket, or holds credentials or a query.
    """
    text = _URL.sub(lambda found: f"{found[1].lower()}://", str(place), count=1)
    parts = urlsplit(text)
    if "@" in parts.netloc or ":" in parts.netloc:  # not repeated here, since it may hold a password
        raise ValueError(
            f"got a {parts.scheme}:// URL with a user, a password or a port, expected "
            f"{parts.scheme}://BUCKET/DIR. "
            "Credentials come from the environment (GOOGLE_APPLICATION_CREDENTIALS, AWS_PROFILE and others)."
        )
    if not parts.netloc or not parts.path.strip("/"):
        raise ValueError(f"got {text!r}, expected a directory in a bucket: {parts.scheme}://BUCKET/DIR.")
    if any(part in (".", "..") for part in parts.path.split("/")):
        raise ValueError(f"got {text!r}, expected a URL without . and ..: object stores do not resolve them.")
    return text.rstrip("/")


def absolute_place(place: str) -> str:
    """A place as it can be found from any working directory: an absolute path, or the URL; "" stays."""
    return place if not place or is_bucket(place) else os.path.abspath(place)


def filesystem(url: str) -> Any:
    """fsspec's file system of a URL. It keeps no listings: other processes write to the same bucket.

    Raises:
      ImportError: the packages for buckets are not installed.
    """
    import fsspec

    scheme = url.partition("://")[0]
    for known in SCHEMES:  # for every user of fsspec in this process, Orbax through etils too
        fsspec.config.conf.setdefault(known, {})["use_listings_cache"] = False
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)  # it logs the traceback of what it then raises
    try:
        return fsspec.filesystem(scheme)
    except ImportError as error:
        raise ImportError(
            f"{url}: {error}. Install the packages for buckets: {install_command('buckets')}."
        ) from error


@contextlib.contextmanager
def bucket_errors(url: str, doing: str) -> Iterator[None]:
    """Context of an access to a bucket: whatever its client raises becomes an OSError that tells what to do.

    Args:
      doing: "read" or "written", for the message.
    """
    try:
        yield
    except ImportError:
        raise
    except FileNotFoundError as error:
        bucket = "/".join(url.split("/")[:3])
        raise FileNotFoundError(
            f"{url} cannot be {doing}: there is no such bucket or object. Check the name, and whether "
            f"{bucket} exists."
        ) from error
    except Exception as error:
        # The clients raise errors of many types: of botocore, google.auth, aiohttp and their own.
        text = f"{type(error).__name__}: {error}".partition("\n")[0][:300]
        is_denied = isinstance(error, PermissionError) or _DENIED.search(text) is not None
        advice = "Check the network and the endpoint, and run the same command again."
        if is_denied:
            advice = (
                "Give this machine credentials that may read and write there: `gcloud auth "
                "application-default login` or a service account for gs://, AWS_PROFILE or an instance role "
                "for s3://."
            )
        elif getattr(error, "errno", None) == errno.ENOSPC:
            advice = "Free space on this machine, and run the same command again."
        kind = PermissionError if is_denied else OSError
        raise kind(f"{url} cannot be {doing}: {text}. {advice}") from error


def sizes_under(url: str) -> dict[str, int]:
    """Name relative to `url` → bytes, of every object under it; {} if there are none.

    Raises:
      OSError: the bucket cannot be read.
    """
    store = filesystem(url)
    root = url.partition("://")[2] + "/"
    with bucket_errors(url, "read"):
        try:
            found = store.find(url, detail=True)
        except FileNotFoundError:
            found = {}
        return {
            path.removeprefix(root): int(entry["size"])
            for path, entry in found.items()
            if path.startswith(root) and not path.endswith("/")
        }


def read_object(url: str) -> bytes:
    """The contents of one object. Raises FileNotFoundError or OSError as `bucket_errors` does."""
    with bucket_errors(url, "read"):
        return filesystem(url).cat_file(url)


def download(url: str, names: Iterable[str], directory: Path, *, label: str = "") -> None:
    """Copy the objects `names` under `url` into `directory`; shows its progress if it has a `label`.

    Raises:
      OSError: an object cannot be read, or the disk is full. ValueError: a name leads out of `directory`.
    """
    names = sorted(check_relative_name(name, url) for name in names)
    for parent in {(directory / name).parent for name in names}:
        parent.mkdir(parents=True, exist_ok=True)
    with bucket_errors(url, "read"), _callback(label, len(names)) as callback:
        sources, targets = [f"{url}/{name}" for name in names], [str(directory / name) for name in names]
        filesystem(url).get(sources, targets, callback=callback)


def upload(directory: Path, names: Iterable[str], url: str) -> None:
    """Copy the files `names` of `directory` to the same names under `url`.

    Raises:
      OSError: the bucket cannot be written.
    """
    names = sorted(names)
    with bucket_errors(url, "written"):
        store = filesystem(url)
        for name in names:
            store.put_file(str(directory / name), f"{url}/{name}")


def write_object(url: str, data: bytes) -> None:
    """Write one object. Raises OSError as `upload` does."""
    with bucket_errors(url, "written"):
        filesystem(url).pipe_file(url, data)


def create_object(url: str, data: bytes) -> bool:
    """Write an object unless there is one; whether it was written. Raises OSError as `upload` does."""
    with bucket_errors(url, "written"):
        store = filesystem(url)
        try:
            store.pipe_file(url, data, mode="create")
        except Exception:  # each client has its own error for an object that exists
            if not store.exists(url):
                raise
            with contextlib.suppress(FileNotFoundError):  # it has been removed just now
                return store.cat_file(url) == data  # a client that got no answer asks once more
            return False
        return True


def remove(url: str, names: Iterable[str]) -> None:
    """Remove objects under `url`, in the given order. Raises OSError as `upload` does."""
    with bucket_errors(url, "written"):
        for name in names:
            filesystem(url).rm_file(f"{url}/{name}")


def move(url: str, names: Iterable[str], target: str) -> None:
    """Copy objects under `url` to the same names under `target`, all of them before the first is removed, in
    the given order. Raises OSError as `upload` does."""
    names = list(names)
    with bucket_errors(url, "written"):
        for name in names:
            filesystem(url).cp_file(f"{url}/{name}", f"{target}/{name}")
    remove(url, names)


def check_writable(url: str) -> None:
    """Write and remove an object under `url`, so that errors come before any work. Raises as `upload`
    does."""
    name = f".electra_jax_write_check.{uuid.uuid4().hex}"  # several processes check at once
    write_object(f"{url}/{name}", b"electra_jax checks whether it may write here\n")
    remove(url, [name])


def local_files(directory: Path, accept: Callable[[str], bool] = lambda name: True) -> list[str]:
    """Names relative to `directory` of the files under it, sorted."""
    names = (path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file())
    return sorted(filter(accept, names))


@contextlib.contextmanager
def _callback(label: str, num_files: int) -> Iterator[Any]:
    from fsspec.callbacks import DEFAULT_CALLBACK, Callback

    if not label:
        yield DEFAULT_CALLBACK
        return
    with make_progress(num_files, label, unit="file") as shown:
        yield Callback(hooks={"show": lambda size, value, **_: shown.update(value)})
