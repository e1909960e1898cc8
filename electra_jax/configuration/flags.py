"""Flags of the commands that take a configuration, with errors that a person can act on."""

import ast
import difflib
import importlib.util
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import config_dict, config_flags
from ml_collections.config_flags import tuple_parser

from electra_jax.runs.directory import flatten

REQUIRED = {
    "config": "a configuration file, for example --config=configs/electra.py:size=small",
    "workdir": "the directory of the run, for example --workdir=runs/small; the same one again resumes it",
}


class WordsParser(tuple_parser.TupleParser):
    """Tuples as a,b or one word, so that a single path needs neither quotes nor brackets; "('a,b', 'c')"
    still works."""

    def parse(self, argument: Any) -> tuple:
        if not isinstance(argument, str) or argument.lstrip().startswith(("(", "[", "'", '"')):
            return super().parse(argument)
        return tuple(_literal(word.strip()) for word in argument.split(",") if word.strip())


def define_flags(flag_values: flags.FlagValues = flags.FLAGS, *, has_workdir: bool = True) -> None:
    """Define --config, with --config.a.b=… for every value in it, and for a command that makes a run
    --workdir."""
    config_flags.register_flag_parser_for_type(tuple, WordsParser())
    config_flags.DEFINE_config_file(
        "config",
        None,
        "Configuration file, with its argument: FILE.py:key=value,…",
        lock_config=True,
        flag_values=flag_values,
    )
    if has_workdir:
        flags.DEFINE_string(
            "workdir",
            None,
            "Directory of the run: configuration, metrics, checkpoints, plots.",
            flag_values=flag_values,
        )


def parse_flags(argv: Sequence[str], flag_values: flags.FlagValues = flags.FLAGS) -> list[str]:
    """The `flags_parser` of `app.run`: what is left of `argv`; a mistake ends the program with a message and
    exit code 1."""
    try:
        defaults = _defaults(argv)
        _check_keys(argv, defaults)
        rest = _parse(argv, flag_values, defaults)
        missing = [name for name in REQUIRED if name in flag_values and flag_values[name].value is None]
        if missing:
            raise ValueError("\n".join(f"--{name} is missing: {REQUIRED[name]}." for name in missing))
        if rest[1:]:
            raise ValueError(f"got {rest[1:]}, expected only flags: --name=value.")
    except (ValueError, OSError) as error:
        sys.exit(str(error))
    return rest


def load_config(argument: str) -> config_dict.ConfigDict:
    """What get_config of FILE.py[:argument] returns.

    Raises:
      FileNotFoundError: no such file. ValueError: not a configuration file, or it rejects its argument.
    """
    path, _, argument_of_config = argument.partition(":")
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"--config={argument}: there is no file {path}. Configurations are in configs/."
        )
    spec = importlib.util.spec_from_file_location("config", path)
    if spec is None:
        raise ValueError(f"--config={argument}: expected a Python file with get_config, got {path}.")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    try:
        return module.get_config(argument_of_config or None)
    except ValueError as error:
        raise ValueError(f"--config={argument}: {error}") from error


def _defaults(argv: Sequence[str]) -> dict[str, Any]:
    """Every value of the configuration chosen in `argv` before overrides, {} when none is chosen."""
    for index, word in enumerate(argv):
        name, _, value = word.partition("=")
        if name in ("--config", "-config"):
            following = argv[index + 1] if index + 1 < len(argv) else ""
            return flatten(load_config(value or following).to_dict())
    return {}


def _check_keys(argv: Sequence[str], defaults: dict[str, Any]) -> None:
    sections = {key[:place] for key in defaults for place, letter in enumerate(key) if letter == "."}
    for word in argv if defaults else ():
        key = re.match(r"--?config\.([^=\[]+)", word)
        if key and key[1] not in defaults and key[1] not in sections:
            name = key[1].rpartition(".")[
                2
            ]  # a known name in the wrong section is likelier than another name
            near = [known for known in defaults if known.rpartition(".")[2] == name]
            near = near or difflib.get_close_matches(key[1], defaults, n=1)
            hint = (
                f"Did you mean {' or '.join(f'--config.{known}' for known in near)}?"
                if near
                else f"Its sections are {', '.join(sorted(sections))}."
            )
            raise ValueError(f"--config.{key[1]}: the configuration has no such key. {hint}")


def _parse(argv: Sequence[str], flag_values: flags.FlagValues, defaults: dict[str, Any]) -> list[str]:
    try:
        return flag_values(argv)
    except flags.IllegalFlagValueError as error:
        wrong = re.match(r"flag --config\.([^=]+)=(.*?): ", str(error), re.DOTALL)
        if wrong and wrong[1] in defaults:
            default = defaults[wrong[1]]
            raise ValueError(
                f"--config.{wrong[1]}: got {wrong[2]!r}, expected {type(default).__name__} as in the default "
                f"{default!r}."
            ) from error
        raise ValueError(str(error)) from error
    except flags.Error as error:
        raise ValueError(str(error)) from error


def _literal(word: str) -> Any:
    try:
        return ast.literal_eval(word)
    except (ValueError, SyntaxError):
        return word
