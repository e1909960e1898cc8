"""The directory for what is fetched once: sample data, copies of datasets in buckets."""

import contextlib
import os
import tempfile
from pathlib import Path

from data_pipelines.home_directory import expand_home

CACHE_VARIABLE = "ELECTRA_JAX_CACHE"


def cache_directory() -> Path:
    """$ELECTRA_JAX_CACHE; without it, electra_jax in $XDG_CACHE_HOME or ~/.cache or, if that cannot be
    written, a directory with the user's number among temporary files. It exists.

    Raises:
      OSError: it cannot be written. ValueError: $ELECTRA_JAX_CACHE starts with ~, and there is no such home
        directory.
    """
    if chosen := os.environ.get(CACHE_VARIABLE):
        places = [Path(expand_home(chosen)).absolute()]
    else:
        usual = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        places = [Path(usual, "electra_jax")]
        with contextlib.suppress(FileNotFoundError):  # no temporary directory can be written
            places.append(Path(tempfile.gettempdir(), f"electra_jax-{os.getuid()}"))
    for place in places:
        if not place.is_absolute():  # there is no home directory
            continue
        try:
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(place, os.W_OK):
            return place
    raise OSError(
        f"{' and '.join(map(str, places))} cannot be written. Set {CACHE_VARIABLE} to a directory for "
        "fetched files."
    )
