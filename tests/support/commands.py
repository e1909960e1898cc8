"""Python programs in processes of their own."""

import subprocess
import sys

from support.paths import ROOT


def run_python(*words, environment=None, cwd=ROOT, timeout=300, **more):
    """The completed process `python WORDS`, with what it printed as text; `more` as for `subprocess.run`."""
    return subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        **more,
    )


def run_module(*words, **choices):
    """The completed process `python -m WORDS`; `choices` as for `run_python`."""
    return run_python("-m", *words, **choices)
