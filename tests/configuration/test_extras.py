"""Pre-training needs no extra; work that needs one names it before anything is computed."""

import pytest

from electra_jax.__main__ import find_commands
from electra_jax.configuration import extras
from support.commands import run_python

# A finder at the front of sys.meta_path refuses the packages of the extras, as if they were not installed.
# Each command is then imported in a process of its own, which has only what all of them need.
WITHOUT_EXTRAS = """
import importlib, importlib.abc, os, sys, traceback, warnings
packages, *modules = sys.argv[1:]
class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in packages.split(","):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
import flax.linen, grain, optax, orbax.checkpoint
warnings.filterwarnings("ignore", category=RuntimeWarning, message=".*fork")
for module in modules:
    child = os.fork()
    if child == 0:
        try:
            importlib.import_module(module)
        except BaseException:
            print(f"{module}: {traceback.format_exc()}", flush=True)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        print(f"{module}: it crashed", flush=True)
print("all are imported")
"""


def test_every_command_starts_without_the_extras():
    packages = {name for names in extras.MODULES.values() for name in names} | {"torch", "transformers"}
    outcome = run_python("-c", WITHOUT_EXTRAS, ",".join(sorted(packages)), *find_commands().values())
    assert outcome.returncode == 0, outcome.stderr
    assert outcome.stdout == "all are imported\n"


def test_what_is_missing_is_named_with_its_extra(monkeypatch, capsys):
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name in ("seqeval", "matplotlib") else name)
    with pytest.raises(
        ImportError, match=r"fine-tuning needs seqeval, which is not .* `pip install -e '\.\[finetune\]'`"
    ):
        extras.require_extra("finetune", "fine-tuning")
    assert not extras.can_draw("curves.png")
    assert "curves.png: not drawn, since matplotlib is not installed" in capsys.readouterr().out


def test_nothing_is_missing_where_all_extras_are_installed():
    for extra in extras.MODULES:
        extras.require_extra(extra, "this")
    assert extras.can_draw("curves.png")
