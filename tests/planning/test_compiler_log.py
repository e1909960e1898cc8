"""The messages of compilers go to a file; those of the command stay on the terminal."""

import os
import re
import tempfile
from pathlib import Path

import jax
import pytest

from electra_jax.planning.compiler_log import compiler_messages_in_a_file
from support.commands import run_python

CHATTER = "Very slow compile?\n"
SCRIPT = """
import os, sys
from electra_jax.planning.compiler_log import compiler_messages_in_a_file
with compiler_messages_in_a_file() as path:
    os.write(2, b"Very slow compile?")
    print("compiling", file=sys.stderr)
    assert path.read_text() == "Very slow compile?"
os.write(2, b"terminal again, ")
print("by Python, too", file=sys.stderr)
assert not path.exists()
"""


def test_the_terminal_has_the_lines_of_the_command_alone(tmp_path):
    outcome = run_python("-c", SCRIPT, environment=os.environ | {"TMPDIR": str(tmp_path)})
    assert outcome.returncode == 0, outcome.stderr
    assert outcome.stderr == "compiling\nterminal again, by Python, too\n"
    assert not list(tmp_path.iterdir())


@pytest.fixture
def fail(tmp_path, monkeypatch, capfd):
    """A function: what is raised when a compiler has written and `error` follows; the file is in tmp_path."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def raised(error):
        with pytest.raises((ValueError, KeyboardInterrupt)) as found, compiler_messages_in_a_file():
            os.write(2, CHATTER.encode())
            raise error
        os.write(2, b"terminal again")
        assert capfd.readouterr().err == "terminal again"
        return found.value

    return raised


def test_the_failure_of_a_compiler_names_the_file(fail):
    text = str(fail(jax.errors.JaxRuntimeError("INTERNAL: it broke.\nmore")))
    found = re.fullmatch(r"the compiler failed: INTERNAL: it broke. Its messages are in (\S+)\.", text)
    assert Path(found[1]).read_text(encoding="utf-8") == CHATTER


@pytest.mark.parametrize("error", [ValueError("a wrong setting"), KeyboardInterrupt()], ids=repr)
def test_an_error_of_the_command_leaves_no_file(fail, tmp_path, error):
    assert fail(error) is error and not list(tmp_path.iterdir())
