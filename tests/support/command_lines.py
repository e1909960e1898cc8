"""Command lines as the commands read them."""

import json
import os
import sys
from pathlib import Path

from absl import flags

from electra_jax.configuration.flags import define_flags, parse_flags
from support.commands import run_module
from support.paths import ROOT


def read_command_line(argv, monkeypatch, **options):
    """(config, workdir) that the command would run, or SystemExit; `options` of `parse_flags`."""
    monkeypatch.setattr(sys, "argv", argv)  # ml_collections looks there for overrides
    flag_values = flags.FlagValues()
    define_flags(flag_values)
    parse_flags(argv, flag_values, **options)
    return flag_values.config.to_dict(), Path(flag_values.workdir)


def mistakes_in(lines):
    """What is wrong with each command line [words], "" for nothing (parse_commands.py)."""
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    outcome = run_module("support.parse_commands", input=json.dumps(lines), environment=environment)
    assert outcome.returncode == 0, outcome.stderr
    return json.loads(outcome.stdout)
