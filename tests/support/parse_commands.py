"""Parse command lines without running the commands: `python -m support.parse_commands`.

Reads a JSON list of command lines from standard input, each a list of words that begins with "python". Prints
a JSON list of what is wrong with each, with its flags or with the configuration that they give, "" for
nothing. The commands themselves do the parsing, each in a forked process, since absl's flags can be defined
only once per process.
"""

import argparse
import contextlib
import importlib.util
import io
import json
import os
import runpy
import sys
import tempfile
from pathlib import Path

from absl import app, flags

from configs import debug
from electra_jax.configuration.checks import check_values
from electra_jax.configuration.resolve import resolve
from electra_jax.configuration.sizes import with_assumed_sizes
from electra_jax.configuration.unread_settings import check_unread
from electra_jax.finetuning.sweep import apply_settings, parse_sweep
from electra_jax.frozen_features import command_line as frozen
from electra_jax.minimal_pairs.command_line import check_flags
from support.paths import ROOT


def read(words: list[str]) -> str:
    """What is wrong with a command line, in this process."""
    is_module = words[1] == "-m"
    name, arguments = (words[2], words[3:]) if is_module else (words[1], words[2:])
    if is_module and find_spec(name) is None:
        return f"there is no module {name}"
    if not is_module and not (ROOT / name).is_file():
        return f"there is no file {name}"
    if is_module and (not arguments or name.partition(".")[0] not in ("electra_jax", "data_pipelines")):
        return ""  # only named, or another project's
    make_runs(arguments)
    errors = io.StringIO()
    sys.argv = [name, *arguments]
    try:
        with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(errors):
            if is_module:
                runpy.run_module(name, run_name="__main__")
            else:
                sys.path.insert(0, str(ROOT / "launch"))
                runpy.run_path(str(ROOT / name), run_name="__main__")
    except SystemExit as end:
        if end.code in (None, 0, OK):
            return ""
        return f"{errors.getvalue()}{end.code if isinstance(end.code, str) else ''}".strip()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "it does not read its arguments"


def find_spec(name: str):
    """The module's spec, None if there is no such module or a package of it is missing."""
    try:
        return importlib.util.find_spec(name)
    except ModuleNotFoundError:
        return None


def make_runs(arguments: list[str]) -> None:
    """The run that configs/continued.py:run=DIR reads, below the working directory."""
    for word in arguments:
        if "continued.py:run=" in word:
            run = Path(word.partition(":run=")[2])
            if not run.is_absolute():
                run.mkdir(parents=True, exist_ok=True)
                config = with_assumed_sizes(debug.get_config().to_dict())
                (run / "config.json").write_text(json.dumps({"config": config}))


OK = 77


def stop_after_parsing() -> None:
    """Make the two ways in which commands read their arguments end the process."""
    parse_args = argparse.ArgumentParser.parse_args

    def parse_and_stop(self, *args, **options):
        parse_args(self, *args, **options)
        sys.exit(OK)

    def run(main, argv=None, flags_parser=None):
        argv = sys.argv if argv is None else argv
        (flags_parser or app.parse_flags_with_usage)(argv)
        check_configuration(sys.argv[0])
        sys.exit(OK)

    argparse.ArgumentParser.parse_args = parse_and_stop
    app.run = run


def check_configuration(name: str) -> None:
    """Raises ValueError if the command would refuse the configuration that its flags give."""
    command = name.removeprefix("electra_jax.")
    if command in ("pretrain", "plan", "compare", "doctor"):
        resolve(flags.FLAGS.config.to_dict())
    elif command == "evaluate" and flags.FLAGS.minimal_pairs:
        check_flags(flags.FLAGS)
    elif command == "evaluate":
        frozen.check_flags(flags.FLAGS)
        config = flags.FLAGS.config.to_dict()
        resolve(config["pretraining"])
        for task in config["tasks"].values():
            check_task(task)
    elif command == "finetune":
        check_task(flags.FLAGS.config.to_dict())


def check_task(config: dict) -> None:
    """Raises ValueError for settings of a fine-tuning that no combination of --sweep takes or reads."""
    check_values(config)
    sweep = parse_sweep(flags.FLAGS.sweep, config)
    check_unread([apply_settings(config, settings) for settings in sweep])


def read_in_child(words: list[str]) -> str:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        with os.fdopen(writer, "w") as stream:
            stream.write(read(words))
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as stream:
        answer = stream.read()
    return answer if os.waitpid(child, 0)[1] == 0 else f"it crashed: {answer}"


if __name__ == "__main__":
    command_lines = json.load(sys.stdin)
    # What is slow to import is imported once, here, and not in every child.
    for name in {words[2] for words in command_lines if words[1] == "-m"}:
        if name.partition(".")[0] in ("electra_jax", "data_pipelines") and find_spec(name) is not None:
            with contextlib.suppress(Exception):  # reported for the command, which imports it again
                importlib.import_module(name)
    stop_after_parsing()
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        print(json.dumps([read_in_child(words) for words in command_lines]))
