"""The command line of every command that takes a configuration: its flags, its help and its errors.

A command's module ends with

    if __name__ == "__main__":
        run_command(main, define_more_flags)
"""

import difflib
import functools
import re
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NoReturn

from absl import app, flags
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict, config_flags
from ml_collections.config_flags import tuple_parser

from data_pipelines.bucket_flags import check_urls
from data_pipelines.command_errors import PREFIX, accept_any_text, errors_on_the_terminal
from data_pipelines.home_directory import expand_home_in
from data_pipelines.path_flags import NEW_DIRECTORY, check_paths
from data_pipelines.problems import Problems
from electra_jax.configuration.length import check_one_length
from electra_jax.configuration.migration import RENAMED
from electra_jax.configuration.objectives import check_given
from electra_jax.configuration.process_setup import prepare_devices, prepare_process
from electra_jax.configuration.recipes import (
    PRETRAINING,
    Kind,
    check_kind,
    expand_home_of_config,
    find_recipe,
    load_config,
)
from electra_jax.configuration.shape_hints import shape_hints
from electra_jax.configuration.shown_values import value_lines
from electra_jax.distributed.stopping import leaving_at_once
from electra_jax.models.config import SECTIONS

flags.disclaim_key_flags()  # they are the command's own, so that its --help shows them
# What a command that reads datasets and runs, and one that also writes a run, may find in a bucket.
DATA_URLS = ("datasets", "init_from")
RUN_URLS = (*DATA_URLS, "workdir")
NO_PATHS: Mapping[str, str] = MappingProxyType({})
HELP = ("--help", "-help", "-h", "-?", "--helpshort", "-helpshort")
PARSERS = {int: flags.IntegerParser(), float: flags.FloatParser(), bool: flags.BooleanParser()}
REQUIRED = {
    "config": "a configuration file, for example --config=configs/electra.py:size=small",
    "workdir": "the directory of the run, for example --workdir=runs/small; the same one again resumes it",
}


class WordsParser(tuple_parser.TupleParser):
    """Tuples as a,b or one word, so that a single path needs neither quotes nor brackets; "('a,b', 'c')"
    still works.

    Words stay text, as they are spelled: a directory 2023_11 or a label 1e5 would lose its name as a number.
    What reads numbers from a tuple converts them.
    """

    def parse(self, argument: Any) -> tuple:
        if not isinstance(argument, str) or argument.lstrip().startswith(("(", "[", "'", '"')):
            return super().parse(argument)
        return tuple(split_words(argument))


def split_words(text: str) -> list[str]:
    """The words of "a,b", without spaces around them."""
    return [word.strip() for word in text.split(",") if word.strip()]


def run_command(
    main: Callable[[], None],
    define_more: Callable[[], None] = lambda: None,
    *,
    has_workdir: bool = True,
    requires_config: bool = True,
    on_devices: bool = False,
    takes_urls: Collection[str] = DATA_URLS,
    kind: Kind = PRETRAINING,
    paths: Mapping[str, str] = NO_PATHS,
) -> None:
    """Define the flags, read the command line, and call `main`; errors are told by `errors_on_the_terminal`.

    Args:
      main: the command; it reads `absl.flags.FLAGS`.
      define_more: defines the command's own flags. They are defined here and not when the command's module is
        imported, since importing a command must not change anybody's flags.
      has_workdir: whether the command has --workdir, where its results are saved.
      requires_config: whether --config must be given; where not, `FLAGS.config` may be None.
      on_devices: whether the command is one process that needs devices from its beginning.
      takes_urls: flags and keys that may be the URL of a bucket (see `check_urls`).
      kind: what --config must be.
      paths: the command's flags, besides --workdir, that are paths (see `check_paths`).
    """

    def run(argv: list[str]) -> None:
        del argv
        with errors_on_the_terminal(saves_result=has_workdir), leaving_at_once(""):
            prepare = prepare_devices if on_devices else prepare_process
            prepare()
            main()

    accept_any_text()  # of the help, too
    known = set(flags.FLAGS)
    define_flags(has_workdir=has_workdir)
    define_more()
    for name in set(flags.FLAGS) - known:  # --help shows the key flags of the program, wherever defined
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flags.FLAGS[name])
    optional = () if requires_config else ("config",)
    parser = functools.partial(parse_flags, optional=optional, takes_urls=takes_urls, kind=kind, paths=paths)
    app.run(run, flags_parser=parser)


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
    flags.DEFINE_boolean(
        "print_config",
        False,
        "Print every value of the configuration, its source (recipe, argument or flag) and its comment, and "
        "exit.",
        flag_values=flag_values,
    )
    if has_workdir:
        flags.DEFINE_string(
            "workdir",
            None,
            "Directory of the run, which gets all that the command writes.",
            flag_values=flag_values,
        )


def parse_flags(
    argv: Sequence[str],
    flag_values: flags.FlagValues = flags.FLAGS,
    *,
    optional: Collection[str] = (),
    takes_urls: Collection[str] = DATA_URLS,
    kind: Kind | None = None,
    paths: Mapping[str, str] = NO_PATHS,
) -> list[str]:
    """The `flags_parser` of `app.run`: what is left of `argv`; a mistake ends the program with a message and
    exit code 1. `optional` names flags of REQUIRED that this command does without; `takes_urls`, `paths` and
    `kind` as in `run_command`; None for any."""
    problems = Problems()
    try:
        argv = _with_found_recipes(expand_home_in(list(argv)))
        defaults = _defaults(argv, kind)
        if any(word in HELP for word in argv[1:]):
            _show_help(recipe_of(argv))
        with problems.kept():
            check_one_length(argv)
        with problems.kept():
            _check_keys(argv, defaults)
        problems.report()
        rest = _parse(_last_tuples(argv, defaults), flag_values, defaults)
        if flag_values.print_config:
            _print_config(argv, flag_values.config)
        required = [name for name in REQUIRED if name in flag_values and name not in optional]
        for name in required:
            if flag_values[name].value is None:
                problems.add_text(f"--{name} is missing: {REQUIRED[name]}.")
        if rest[1:]:
            problems.add_text(f"got {rest[1:]}, expected only flags: --name=value.")
        if "objective" in (flag_values.config or {}):
            with problems.kept():
                ((kind and kind.check_given) or check_given)(flag_values, defaults)
        problems.report()
        if flag_values.config is not None:
            expand_home_of_config(flag_values.config)  # what the file itself has
            for hint in shape_hints(argv, flatten_dict(flag_values.config.to_dict(), sep=".")):
                print(hint, file=sys.stderr)
        _check_given_paths(argv[1:], flag_values, paths, takes_urls)
    except (ValueError, OSError) as error:
        sys.exit(f"{PREFIX}{error}")
    return rest


def _show_help(recipe: str | None) -> NoReturn:
    """Print the help of the command and, if a configuration is given, what can be set in it; exit."""
    app.usage(shorthelp=True, writeto_stdout=True)
    if recipe is None:
        print("\nWith --config=FILE:ARGUMENT beside it, --help shows all values that can be set, too.")
    else:
        print(f"\nThe values of {recipe}:")
        print("\n".join(value_lines(load_config(recipe), recipe, ())))
    sys.exit(0)


def _print_config(argv: Sequence[str], config: ConfigDict | None) -> NoReturn:
    """Print every value of a configuration, and exit. Raises ValueError without one."""
    if config is None:
        raise ValueError(f"--config is missing: {REQUIRED['config']}.")
    print("\n".join(value_lines(config, recipe_of(argv) or "", argv)))
    sys.exit(0)


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


def _defaults(argv: Sequence[str], kind: Kind | None) -> dict[str, Any]:
    """Every value of the configuration chosen in `argv` before overrides, {} when none is chosen."""
    value = recipe_of(argv)
    if value is None:
        return {}
    check_urls({"config": re.split(r"(?<=\.py):", value)[0]})
    config = load_config(value)
    if kind is not None:
        check_kind(config, kind, f"--config={value}: got a configuration")
    return flatten_dict(config.to_dict(), sep=".")


def recipe_of(argv: Sequence[str]) -> str | None:
    """What --config names, FILE.py[:argument]; None if it is not given. Raises ValueError for two."""
    recipes = []
    for index, word in enumerate(argv):
        name, _, value = word.partition("=")
        if name in ("--config", "-config"):
            recipes.append(value or (argv[index + 1] if index + 1 < len(argv) else ""))
    if len(recipes) > 1:
        raise ValueError(f"--config: got {' and '.join(recipes)}, expected one configuration.")
    return recipes[0] if recipes else None


def _last_tuples(argv: Sequence[str], defaults: dict[str, Any]) -> list[str]:
    """`argv` with only the last of several flags for a key whose value is a tuple, as it is with all others:
    ml_collections would add them up."""
    places: dict[str, list[tuple[int, int]]] = {}
    for index, word in enumerate(argv):
        name, equals, _ = word.lstrip("-").partition("=")
        if word.startswith("-") and isinstance(defaults.get(name.removeprefix("config.")), tuple):
            places.setdefault(name, []).append((index, index + (1 if equals else 2)))
    kept, earlier = list(argv), [place for found in places.values() for place in found[:-1]]
    for place in sorted(earlier, reverse=True):
        del kept[slice(*place)]
    return kept


def _check_keys(argv: Sequence[str], defaults: dict[str, Any]) -> None:
    """Raises ValueError for every --config.KEY=VALUE whose key the configuration does not have, or whose
    value is not of the type of its default."""
    sections = {key[:place] for key in defaults for place, letter in enumerate(key) if letter == "."}
    problems = Problems()
    for word in argv:
        given = re.fullmatch(r"--?config\.([^=\[]+)([^=]*)(?:=(.*))?", word, re.DOTALL)
        if not given:
            continue
        key, index, value = given.groups()
        section = re.match(rf"(?:.+\.)?(?:{'|'.join(SECTIONS)})(?=\.|$)", key)
        if not defaults:
            problems.add_text(f"--config.{key}: got no configuration to change. Give --config=FILE as well.")
        elif section and (value == "None" or defaults.get(section[0], "") is None):
            problems.add_text(
                f"--config.{key}: got {value!r}, which no flag can set: a recipe sets config.{section[0]} "
                "together with the position. Give the recipe of another family, or change a copy of this one."
            )
        elif key in defaults:
            if value is not None and not index and not _has_type(value, defaults[key]):
                problems.add_text(_wrong_type(key, value, defaults[key]))
        elif key not in sections:
            name = key.rpartition(".")[2]  # a known name in the wrong section is likelier than another name
            near = [known for known in defaults if known.rpartition(".")[2] == name]
            near = near or difflib.get_close_matches(key, defaults, n=1)
            if key in RENAMED:
                near = [RENAMED[key]]
            hint = (
                f"Did you mean {' or '.join(f'--config.{known}' for known in near)}?"
                if near
                else f"Use a key of its sections {', '.join(sorted(sections))}."
            )
            problems.add_text(f"--config.{key}: the configuration has no such key. {hint}")
    problems.report()


def _has_type(value: str, default: Any) -> bool:
    """Whether the text of a flag can be a number or a truth value as the default is; other types are left to
    the parser."""
    parser = PARSERS.get(type(default))
    try:
        return parser is None or parser.parse(value) is not None
    except (ValueError, TypeError):
        return False


def _wrong_type(key: str, value: str, default: Any) -> str:
    return f"--config.{key}: got {value!r}, expected {type(default).__name__} as in the default {default!r}."


def _check_given_paths(
    argv: Sequence[str], flag_values: flags.FlagValues, paths: Mapping[str, str], takes_urls: Collection[str]
) -> None:
    """Raises ValueError for a path that a flag does not take, and for a URL in a flag or in a key of the
    configuration that takes none."""
    given = {name: flag_values[name].value for name in flag_values if flag_values[name].present}
    config = flag_values.config
    values = given | {"config": {} if config is None else config.to_dict()}
    check_paths(values, {"workdir": NEW_DIRECTORY, **paths}, argv, takes_urls)


def _parse(argv: Sequence[str], flag_values: flags.FlagValues, defaults: dict[str, Any]) -> list[str]:
    try:
        return flag_values(argv)
    except flags.IllegalFlagValueError as error:
        wrong = re.match(r"flag --config\.([^=]+)=(.*?): ", str(error), re.DOTALL)
        if wrong and wrong[1] in defaults:
            raise ValueError(_wrong_type(wrong[1], wrong[2], defaults[wrong[1]])) from error
        raise ValueError(str(error)) from error
    except flags.Error as error:
        raise ValueError(str(error)) from error
