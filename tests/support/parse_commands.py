"""Read command lines up to the point where the command would start: `python -m support.parse_commands`.

Takes a JSON list of command lines, each a list of words that begins with "python", from standard input. Prints
a JSON list of what is wrong with each, "" where nothing is. Each is read by the command itself in a process of
its own, since flags of absl are defined once a process.
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

from absl import app

from configs import debug
from support.paths import ROOT


def read(words: list[str]) -> str:
    """What is wrong with a command line, in this process."""
    is_module = words[1] == "-m"
    name, arguments = (words[2], words[3:]) if is_module else (words[1], words[2:])
    if is_module and (importlib.util.find_spec(name.partition(".")[0]) is None or find_spec(name) is None):
        return f"there is no module {name}"
    if not is_module and not (ROOT / name).is_file():
        return f"there is no file {name}"
    if is_module and name.partition(".")[0] not in ("electra_jax", "data_pipelines"):
        return ""
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
                config = debug.get_config().to_dict()
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
        sys.exit(OK)

    argparse.ArgumentParser.parse_args = parse_and_stop
    app.run = run


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
    import flax.traverse_util  # noqa: F401 (slow to import: once here rather than in every child)
    import jax  # noqa: F401

    command_lines = json.load(sys.stdin)
    stop_after_parsing()
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        print(json.dumps([read_in_child(words) for words in command_lines]))
