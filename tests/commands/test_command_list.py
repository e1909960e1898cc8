"""`python -m electra_jax` and `electra-jax`: the list of commands, and each as under its own name."""

import ast
import os

import pytest

from electra_jax.__main__ import GROUPS, check_name, find_commands, listing
from support.commands import run_module, run_python
from support.paths import ROOT

# Imports the list as the console command does, and prints which of the slow packages came with it.
IMPORTED = """
import sys
from electra_jax.__main__ import main
main()
print(*sorted({"jax", "numpy", "absl", "ml_collections", "grain"} & set(sys.modules)), file=sys.stderr)
"""
# Imports the module of every command, and prints which packages came with them.
COMMANDS_IMPORTED = """
import importlib, sys
from electra_jax.__main__ import find_commands
for module in find_commands().values():
    importlib.import_module(module)
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""
# Packages that a command imports when it uses them.
SLOW = (
    "tensorflow",
    "tensorflow_datasets",
    "scipy",
    "sklearn",
    "matplotlib",
    "torch",
    "transformers",
    "pandas",
    "datasets",
    "seqeval",
    "pyarrow",
    "apache_beam",
    "wandb",
    "tensorboard",
    "numba",
    "IPython",
)


def runs_as_main(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return any(isinstance(node, ast.If) and "__main__" in ast.unparse(node.test) for node in tree.body)


def test_the_list_is_that_of_the_modules_that_are_commands():
    """Every module beside this one, and those of data_pipelines that can be run."""
    paths = [path for path in (ROOT / "electra_jax").glob("*.py") if not path.stem.startswith("_")]
    paths += [path for path in (ROOT / "data_pipelines").rglob("*.py") if runs_as_main(path)]
    modules = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in paths]
    commands = find_commands()
    assert sorted(commands.values()) == sorted(modules)
    assert {name: module.rpartition(".")[2] for name, module in commands.items()} == {n: n for n in commands}
    grouped = [name for names in GROUPS.values() for name in names]
    assert set(commands) <= set(grouped), "a command is in no group"
    assert list(commands) == [name for name in grouped if name in commands]


def test_every_command_has_one_short_line():
    lines = listing(find_commands()).splitlines()
    texts = [line[14:] for line in lines if line.startswith("  ")]
    assert len(texts) == len(set(texts)) == len(find_commands())
    assert all(text and text[0].isupper() and len(text) <= 86 and "`" not in text for text in texts), texts
    assert [line for line in lines if line.endswith(":")] == [f"{title}:" for title in GROUPS]


def test_the_list_needs_no_library():
    for words in ([], ["--help"], ["-h"], ["help"]):
        outcome = run_python("-c", IMPORTED, *words)
        assert outcome.returncode == 0 and outcome.stderr.strip() == "", outcome.stderr
        assert outcome.stdout.strip() == listing(find_commands())
    assert run_module("electra_jax").stdout == outcome.stdout


def test_no_command_imports_slow_packages_before_it_uses_them():
    outcome = run_python("-c", COMMANDS_IMPORTED)
    assert outcome.returncode == 0, outcome.stderr
    imported = set(outcome.stdout.split())
    assert {"jax", "orbax"} <= imported
    assert imported.isdisjoint(SLOW), sorted(imported & set(SLOW))


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("pretrian", "pretrain"),
        ("Pre-Train", "pretrain"),
        ("fine-tune", "finetune"),
        ("tokenise", "tokenizer"),
        ("export", "convert export"),
        ("verify", "convert verify"),
    ],
)
def test_the_nearest_command_is_suggested(word, meant):
    expected = f"electra-jax: got '{word}', expected a command. Did you mean `electra-jax {meant}`? "
    with pytest.raises(ValueError) as raised:
        check_name(word, find_commands())
    assert str(raised.value) == f"{expected}`electra-jax` lists all."


def test_an_unknown_command_is_an_error_in_one_line():
    for word in ("qqq", "--config=configs/debug.py", ""):
        outcome = run_module("electra_jax", word, "--workdir=w")
        assert (outcome.returncode, outcome.stdout) == (1, "")
        assert (
            outcome.stderr
            == f"error: electra-jax: got {word!r}, expected a command. `electra-jax` lists all.\n"
        )


@pytest.mark.parametrize(
    "words",
    [
        ["pretrain", "--help"],
        ["pretrain", "--config=configs/debug.py", "--workdir=w", "--config.train.num_step=1"],
        ["corpus", "--help"],
        ["wikitext2"],
    ],
    ids=" ".join,
)
def test_a_command_is_the_same_under_both_names(words, tmp_path):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    both = [
        run_module(*start, *words[1:], cwd=tmp_path, environment=environment)
        for start in (["electra_jax", words[0]], [find_commands()[words[0]]])
    ]
    assert both[0].returncode == both[1].returncode
    assert (both[0].stdout, both[0].stderr) == (both[1].stdout, both[1].stderr)
    assert both[0].stdout or both[0].stderr
