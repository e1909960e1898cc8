"""Commands in children of one process that has imported what is slow to import: `python -m
support.forked_commands`.

Reads a JSON list of command lines from standard input, each the words behind "python -m". Prints a JSON list
of [exit code, standard output, standard error].
"""

import contextlib
import importlib
import json
import os
import runpy
import sys
import tempfile
import traceback
import warnings


def run(words: list[str]) -> int:
    """The exit code of a command in this process."""
    sys.argv = list(words)
    try:
        runpy.run_module(words[0], run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
            return 1
        return end.code or 0
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def run_in_child(words: list[str]) -> tuple[int, str, str]:
    """(exit code, what it printed, what it printed on stderr)."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        child = os.fork()
        if child == 0:
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            code = run(words)
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        return code, *(file.seek(0) or file.read() for file in (out, err))


if __name__ == "__main__":
    command_lines = json.load(sys.stdin)
    for name in {words[0] for words in command_lines}:
        with contextlib.suppress(Exception):  # the command reports it when it imports the module again
            importlib.import_module(name)
    # Both are of this program: the module was imported before it was run, and JAX does not like forks.
    warnings.filterwarnings("ignore", category=RuntimeWarning)
    outcomes = [run_in_child(words) for words in command_lines]
    print(json.dumps(outcomes))
