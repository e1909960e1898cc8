"""How a run was started: each start appends one line to sessions.jsonl, so that the run can be repeated and
its model card written; and what has changed since the start before."""

import collections
import contextlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax

from data_pipelines.json_files import Maybe, read_json
from data_pipelines.whole_files import write_text
from electra_jax.configuration.session_lines import SESSIONS_FILE, Session, read_session_lines

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
# Back ends for accelerators; at most one of them is installed.
PLUGINS = ("libtpu", "jax-cuda12-plugin", "jax-cuda13-plugin", "jax-rocm7-plugin")
SHORT_COMMIT = 10  # letters


def record_start(workdir: Path, start_step: int, **more: Any) -> None:
    """Append a line with the time (UTC), the first step, the command and its working directory, the devices,
    the versions and the commit of this start, and `more` about it. A run that resumes under other versions
    than before prints them, and the line has them as "changed": name → [before, now]."""
    session = {
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "start_step": start_step,
        "command": ["python", "-m", *([module] if (module := _module()) else []), *sys.argv[1:]],
        "directory": os.getcwd(),  # which the command's relative paths start from
        "devices": describe_devices(),
        "versions": installed_versions(),
        "commit": commit(),
        **more,
    }
    changed = changed_versions(workdir, session) if start_step else {}
    if changed:
        session["changed"] = changed
        print(
            f"{workdir} resumes under other versions than in its last session: {format_changes(changed)}. "
            "Losses may differ from those of the old versions by rounding.",
            file=sys.stderr,
        )
    sessions = [*read_sessions(workdir), session]
    write_text(workdir / SESSIONS_FILE, "".join(f"{json.dumps(one)}\n" for one in sessions))


def installed_versions() -> dict[str, str]:
    """Name → version, of Python and of the libraries that decide what is computed."""
    versions = {"python": platform.python_version()}
    for name in (*PACKAGES, *PLUGINS):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


def changed_versions(
    workdir: Path, session: dict[str, Any] | None = None
) -> dict[str, tuple[str | None, str | None]]:
    """Name → (version in the last session of a run, version in `session`), of those that differ.

    None is a library that was, or is, not installed. Versions that the last session did not record are left
    out. `session` is the present one by default.
    """
    sessions = read_sessions(workdir)
    if not sessions:
        return {}
    session = session or {"versions": installed_versions(), "commit": commit()}
    last, old, new = sessions[-1], sessions[-1].get("versions", {}), session["versions"]
    # Older versions of this code recorded four libraries.
    names = sorted(old.keys() | new.keys()) if "python" in old else old.keys()
    changed = {name: (old.get(name), new.get(name)) for name in names if old.get(name) != new.get(name)}
    commits = tuple(short_commit(one.get("commit")) for one in (last, session))
    return changed | ({"commit": commits} if commits[0] != commits[1] else {})


def format_changes(changed: dict[str, tuple[str | None, str | None]]) -> str:
    """For example "jax 0.10.2 → 0.12.0, libtpu none → 0.0.41"."""
    return ", ".join(f"{name} {old or 'none'} → {new or 'none'}" for name, (old, new) in changed.items())


def describe_devices() -> str:
    """For example "8 × TPU v5 lite", or "1 × cpu"."""
    counts = collections.Counter(device.device_kind for device in jax.devices())
    return ", ".join(f"{number} × {name}" for name, number in sorted(counts.items()))


def read_sessions(workdir: Path) -> list[Session]:
    """The sessions of a run, the oldest first; raises ValueError as `read_session_lines` does."""
    return read_session_lines(workdir / SESSIONS_FILE)


def short_commit(commit: str | None) -> str | None:
    """For example "87d7f74c21+changes"; None for none."""
    digest, plus, changes = (commit or "").partition("+")
    return digest[:SHORT_COMMIT] + plus + changes or None


def _module() -> str | None:
    """Dotted name of the module that was run with -m."""
    spec = sys.modules["__main__"].__spec__
    return spec and spec.name


def commit(file: Path = Path(__file__)) -> str | None:
    """Commit of the checkout that this code runs from, with "+changes" if tracked files were edited; outside
    a checkout the commit that pip installed it from, None if it has none.

    Args:
      file: this module. Where it is not tracked, the repository around it is another project's, with an
        environment in it.
    """

    def git(*arguments: str) -> str:
        outcome = subprocess.run(
            ["git", *arguments], cwd=file.parent, capture_output=True, text=True, check=True
        )
        return outcome.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", file.name)
        return git("rev-parse", "HEAD") + (
            "+changes" if git("status", "--porcelain", "--untracked-files=no") else ""
        )
    except (OSError, subprocess.CalledProcessError):
        return _installed_commit(file)


def _installed_commit(file: Path) -> str | None:
    """Commit of `pip install git+URL`, which pip records (packaging.python.org: direct_url.json)."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        installed = importlib.metadata.distribution("electra_jax")
        if Path(installed.locate_file("electra_jax")) in file.parents:
            for path in installed.files or ():
                if path.name == "direct_url.json":
                    record = read_json(path.locate(), {"vcs_info": Maybe(dict)})
                    return record.get("vcs_info", {}).get("commit_id")
    return None
