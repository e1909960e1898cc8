"""A command line as the commands read it."""

import sys
from pathlib import Path

from absl import flags

from electra_jax.configuration.flags import define_flags, parse_flags


def read_command_line(argv, monkeypatch):
    """(config, workdir) that the command would run, or SystemExit."""
    monkeypatch.setattr(sys, "argv", argv)  # ml_collections looks there for overrides
    flag_values = flags.FlagValues()
    define_flags(flag_values)
    parse_flags(argv, flag_values)
    return flag_values.config.to_dict(), Path(flag_values.workdir)
