"""The command line of every command that takes a configuration: its flags, its help and its errors.

A command's module ends with

    if __name__ == "__main__":
        run_command(main, define_more_flags)
"""

import ast
import difflib
import functools
import importlib.util
import logging as standard_logging
import re
import sys
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from absl import app, flags, logging
from flax.traverse_util import flatten_dict
from ml_collections import config_dict, config_flags
from ml_collections.config_flags import tuple_parser

from data_pipelines.command_errors import PREFIX, accept_any_text, errors_on_the_terminal

CHECKOUT = Path(__file__).parents[2]  # whose configs/ are found from any working directory
# Recipes import configs.common, which is not installed. At the end: an installed package comes first.
if str(CHECKOUT) not in sys.path:
    sys.path.append(str(CHECKOUT))

flags.disclaim_key_flags()  # they are the command's own, so that its --help shows them
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
        return tuple(_literal(word) for word in split_words(argument))


def split_words(text: str) -> list[str]:
    """The words of "a,b", without spaces around them."""
    return [word.strip() for word in text.split(",") if word.strip()]


def run_command(
    main: Callable[[], None],
    define_more: Callable[[], None] = lambda: None,
    *,
    has_workdir: bool = True,
    requires_config: bool = True,
) -> None:
    """Define the flags, read the command line, and call `main`; errors are told by `errors_on_the_terminal`.

    Args:
      main: the command; it reads `absl.flags.FLAGS`.
      define_more: defines the command's own flags. They are defined here and not when the command's module is
        imported, since importing a command must not change anybody's flags.
      has_workdir: whether the command has --workdir.
      requires_config: whether --config must be given; where not, `FLAGS.config` may be None.
    """

    def run(argv: list[str]) -> None:
        del argv
        silence_libraries()
        with errors_on_the_terminal():
            main()

    accept_any_text()  # of the help, too
    define_flags(has_workdir=has_workdir)
    define_more()
    optional = () if requires_config else ("config",)
    app.run(run, flags_parser=functools.partial(parse_flags, optional=optional))


def silence_libraries() -> None:
    """Keep quiet what is also raised: Orbax reports every rename, and each array that a full disk rejects."""
    logging.set_verbosity(logging.FATAL)
    standard_logging.getLogger("asyncio").setLevel(standard_logging.CRITICAL)


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


def parse_flags(
    argv: Sequence[str], flag_values: flags.FlagValues = flags.FLAGS, *, optional: Collection[str] = ()
) -> list[str]:
    """The `flags_parser` of `app.run`: what is left of `argv`; a mistake ends the program with a message and
    exit code 1. `optional` names flags of REQUIRED that this command does without."""
    argv = _with_found_recipes(argv)
    try:
        defaults = _defaults(argv)
        _check_keys(argv, defaults)
        rest = _parse(argv, flag_values, defaults)
        required = [name for name in REQUIRED if name in flag_values and name not in optional]
        missing = [name for name in required if flag_values[name].value is None]
        if missing:
            raise ValueError("\n".join(f"--{name} is missing: {REQUIRED[name]}." for name in missing))
        if rest[1:]:
            raise ValueError(f"got {rest[1:]}, expected only flags: --name=value.")
    except (ValueError, OSError) as error:
        sys.exit(f"{PREFIX}{error}")
    return rest


def load_config(argument: str) -> config_dict.ConfigDict:
    """What get_config of FILE.py[:argument] returns.

    Raises:
      FileNotFoundError: no such file. ValueError: not a configuration file, or it rejects its argument.
    """
    path, _, argument_of_config = find_recipe(argument).partition(":")
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"--config={argument}: there is no file {path}, neither here nor in {CHECKOUT}. Recipes are in "
            f"{CHECKOUT / 'configs'}."
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


def find_recipe(argument: str) -> str:
    """FILE.py[:argument] as given or, if that file does not exist, with its path below the checkout."""
    path, colon, argument_of_config = argument.partition(":")
    if not Path(path).exists() and (CHECKOUT / path).is_file():
        path = str(CHECKOUT / path)
    return path + colon + argument_of_config


def _with_found_recipes(argv: Sequence[str]) -> list[str]:
    """`argv` with the file of --config where `find_recipe` finds it."""
    found = list(argv)
    for index, word in enumerate(found):
        name, equals, value = word.partition("=")
        if name in ("--config", "-config"):
            if equals:
                found[index] = f"{name}={find_recipe(value)}"
            elif index + 1 < len(found):
                found[index + 1] = find_recipe(found[index + 1])
    return found


def _defaults(argv: Sequence[str]) -> dict[str, Any]:
    """Every value of the configuration chosen in `argv` before overrides, {} when none is chosen."""
    for index, word in enumerate(argv):
        name, _, value = word.partition("=")
        if name in ("--config", "-config"):
            following = argv[index + 1] if index + 1 < len(argv) else ""
            return flatten_dict(load_config(value or following).to_dict(), sep=".")
    return {}


def _check_keys(argv: Sequence[str], defaults: dict[str, Any]) -> None:
    """Raises ValueError for a --config.KEY=… that the configuration does not have."""
    sections = {key[:place] for key in defaults for place, letter in enumerate(key) if letter == "."}
    for word in argv:
        key = re.match(r"--?config\.([^=\[]+)", word)
        if key and not defaults:
            raise ValueError(
                f"--config.{key[1]}: got no configuration to change. Give --config=FILE as well."
            )
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
