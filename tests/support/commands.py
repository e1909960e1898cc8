"""Python programs in processes of their own."""

import json
import os
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


def run_modules(*command_lines, environment=None):
    """The completed processes `python -m WORDS` of several commands, which are short: all imports are made
    once (forked_commands.py)."""
    variables = (environment or os.environ) | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    lines = [[str(word) for word in words] for words in command_lines]
    outcome = run_module("support.forked_commands", input=json.dumps(lines), environment=variables)
    assert outcome.returncode == 0, outcome.stderr
    outcomes = json.loads(outcome.stdout)
    return [
        subprocess.CompletedProcess(*each) for each in zip(lines, *zip(*outcomes, strict=True), strict=True)
    ]
