"""What READMEs and docstrings say about the code: commands, flags, configuration keys, files, links."""

import ast
import re

import pytest
from flax.traverse_util import flatten_dict

from configs import deberta_v3, debug, electra, finetune, mcl
from configs import evaluate as evaluate_recipe
from support.command_lines import mistakes_in
from support.documented_commands import (
    Command,
    commands_of_docstring,
    commands_of_markdown,
    keys_of_markdown,
    missing_files,
    split_run_arguments,
)
from support.paths import ROOT

MAX_COLUMNS, MAX_ROOT_LINES = 110, 150
FOLDERS = [
    "configs",
    "data_pipelines",
    "data_pipelines/cleaning",
    "data_pipelines/scoring",
    "data_pipelines/tasks",
    "launch",
    "electra_jax/benchmarks",
    "electra_jax/benchmarks/accelerator",
    "electra_jax/comparison",
    "electra_jax/distributed",
    "electra_jax/finetuning",
    "electra_jax/frozen_features",
    "electra_jax/huggingface",
    "electra_jax/minimal_pairs",
    "electra_jax/models",
    "electra_jax/objectives",
    "electra_jax/planning",
    "electra_jax/prediction",
    "electra_jax/reports",
    "electra_jax/runs",
    "electra_jax/soups",
    "electra_jax/training",
]
SKIPPED = {".venv", "runs", "build", ".pytest_cache"}  # folders at the top that are not in the repository
READMES = sorted(
    path
    for path in ROOT.rglob("README.md")
    if path.relative_to(ROOT).parts[0] not in SKIPPED and not path.is_symlink()
)
DOCSTRINGS = [
    *sorted((ROOT / "electra_jax").glob("*.py")),
    *sorted((ROOT / "configs").glob("*.py")),
    *sorted((ROOT / "launch").glob("*.py")),
    *sorted((ROOT / "data_pipelines").glob("*.py")),
    *sorted((ROOT / "data_pipelines" / "sample").glob("*.py")),
]
RECIPES = (
    electra.get_config(),
    deberta_v3.get_config(),
    *(debug.get_config(f"model={model}") for model in debug.MODELS),
    debug.get_config("objective=distillation"),
    mcl.get_config(),
    finetune.get_config("task=trec6"),
    evaluate_recipe.get_config("data=DIR"),
)
name_of = lambda path: str(path.relative_to(ROOT))

RIGHT = "python -m electra_jax.pretrain --config=configs/debug.py:model=mcl --workdir=DIR"
# Command → a part of the message that it must give; None if it is right.
EXAMPLES = [
    (f"{RIGHT} --config.train.num_steps=1000", None),
    (f"{RIGHT} --config.train.num_steps=10", "warmup_steps: got 100, expected fewer than"),
    (f"{RIGHT} --config.train.num_step=10", "no such key"),
    (f"{RIGHT} --config.train.num_steps=ten", "expected int"),
    (f"{RIGHT} --work_dir=DIR", "work_dir"),
    ("python -m electra_jax.pretrain --config=configs/debug.py:model=bert --workdir=DIR", "bert"),
    ("python -m electra_jax.pretrain --config=configs/none.py --workdir=DIR", "none.py"),
    ("python -m electra_jax.pretraining --workdir=DIR", "no module"),
    ("python -m pretrian --workdir=DIR", "no module"),  # of `electra-jax pretrian`
    ("python -m data_pipelines.corpus --trains a.txt", "--train"),
    ("python -m data_pipelines.sample.wikitext2 --out DIR", None),
    ("python -m pytest tests/test_none.py", "no tests/test_none.py"),
    ("bash launch/none.sh", "no file"),
    ("bash launch/gpu_slurm.sh --node=2 -- --config=configs/debug.py --workdir=DIR", "no --node"),
    ("bash launch/gpu_slurm.sh --nodes=2 -- --config=configs/debug.py --workdirs=DIR", "workdirs"),
    ("bash launch/compile_only.sh plan --config=configs/debug.py --device=cpu:8 --searching", "searching"),
    ("python launch/tpu_vm.py status --name=a --zone=us-west4-a --all", "--all"),
    ("python launch/tpu_vm.py status --name=a --zone=us-west4-a", None),
]


@pytest.fixture(scope="module")
def mistakes():
    """What is wrong with every command of the documents and of EXAMPLES; parsed together, to save time."""
    examples = [Command("example", tuple(line.split())) for line, _ in EXAMPLES]
    return find_mistakes(documented_commands() + examples)


def documented_commands() -> list[Command]:
    """Every command of the READMEs and of the docstrings of commands, recipes and launchers."""
    found = []
    for path in READMES:
        found += commands_of_markdown(name_of(path), path.read_text(encoding="utf-8"))
    for path in DOCSTRINGS:
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        found += commands_of_docstring(name_of(path), docstring)
    return list(dict.fromkeys(found))


def find_mistakes(commands: list[Command]) -> dict[Command, list[str]]:
    """What is wrong with each command."""
    wrong = {command: [] for command in commands}
    to_parse = []  # (command, command that is parsed for it)
    for command in commands:
        tests = [word.partition("::")[0] for word in command.words if word.startswith("tests/")]
        wrong[command] += [f"there is no {test}" for test in tests if not (ROOT / test).exists()]
        if not command.words[1].startswith("launch/"):
            to_parse.append((command, command))
            continue
        before, started = split_run_arguments(command)
        to_parse += [(command, run) for run in started]
        if command.words[0] == "bash":
            wrong[command] += mistakes_of_script(before)
        else:
            to_parse.append((command, command))
    answers = mistakes_in([parsed.words for _, parsed in to_parse])
    for (command, _), answer in zip(to_parse, answers, strict=True):
        # In usage lines, --option=NAME stands for one of several words.
        if answer and not re.search(r"--\w+=[A-Z_]+: value should be one of", answer):
            wrong[command].append(answer)
    return wrong


def mistakes_of_script(words: list[str]) -> list[str]:
    """A missing script, or options that its text does not name."""
    path = ROOT / words[1]
    if not path.is_file():
        return [f"there is no file {words[1]}"]
    if path.name == "run_tests.sh":  # its arguments are pytest's
        return []
    text = path.read_text(encoding="utf-8")
    options = [word.partition("=")[0] for word in words[2:] if word.startswith("--")]
    return [
        f"{path.name} has no {option}" for option in options if not re.search(rf"{option}(?![\w-])", text)
    ]


def test_every_folder_explains_itself():
    missing = [folder for folder in FOLDERS if not (ROOT / folder / "README.md").is_file()]
    assert not missing, f"no README.md in {', '.join(missing)}"


def test_documented_commands_are_right(mistakes):
    commands = documented_commands()
    assert len(commands) > 30
    wrong = [f"{command}\n    {mistake}" for command in commands for mistake in mistakes[command]]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("path", READMES, ids=name_of)
def test_files_and_keys_in_a_readme_exist(path):
    text = path.read_text(encoding="utf-8")
    known = {key for recipe in RECIPES for key in flatten_dict(recipe.to_dict(), sep=".")}
    sections = {key[:place] for key in known for place, letter in enumerate(key) if letter == "."}
    wrong = missing_files(path, text)
    wrong += [f"key {key}" for key in keys_of_markdown(text) if key not in known | sections]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("path", READMES, ids=name_of)
def test_lines_of_a_readme_are_short(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    long = [f"{number}: {len(line)}" for number, line in enumerate(lines, 1) if len(line) > MAX_COLUMNS]
    if path.parent != ROOT:
        long = [place for place in long if not lines[int(place.partition(":")[0]) - 1].startswith("|")]
    assert not long, f"lines of more than {MAX_COLUMNS} columns: {', '.join(long)}"
    assert path.parent != ROOT or len(lines) <= MAX_ROOT_LINES, f"got {len(lines)} lines"


MARKDOWN = """Text with `python -m electra_jax.pretrain --config=configs/electra.py:size=small
--workdir=DIR` and `python -m electra_jax.doctor …`.

```bash
RUN=runs/a
python -m electra_jax.pretrain --config=configs/debug.py --workdir=$RUN \\
    --config.train.num_steps=1   # a comment
for seed in 0 1; do python -m data_pipelines.corpus --train a.txt; done && cd runs | cat
bash launch/gpu_slurm.sh --nodes=2 -- --config=configs/debug.py --workdir=DIR
electra-jax corpus --train a.txt < in > out && electra-jax
ls python -m no.command
```
"""


def test_commands_are_found():
    commands = [list(command.words) for command in commands_of_markdown("README.md", MARKDOWN)]
    pretrain = ["python", "-m", "electra_jax.pretrain"]
    assert commands == [
        [*pretrain, "--config=configs/debug.py", "--workdir=runs/a", "--config.train.num_steps=1"],
        ["python", "-m", "data_pipelines.corpus", "--train", "a.txt"],
        ["bash", "launch/gpu_slurm.sh", "--nodes=2", "--", "--config=configs/debug.py", "--workdir=DIR"],
        ["python", "-m", "data_pipelines.corpus", "--train", "a.txt"],
        [*pretrain, "--config=configs/electra.py:size=small", "--workdir=DIR"],
    ]
    docstring = f"What it does: `{pretrain[0]} -m a [--b]`.\n\n    python -m c \\\n        --d=1\n\nEnd."
    found = [" ".join(command.words) for command in commands_of_docstring("a.py", docstring)]
    assert found == ["python -m c --d=1", "python -m a --b"]


@pytest.mark.parametrize(("line", "reason"), EXAMPLES)
def test_mistakes_in_commands_are_found(line, reason, mistakes):
    found = mistakes[Command("example", tuple(line.split()))]
    assert not found if reason is None else reason in "".join(found), found


def test_missing_files_dead_links_and_unknown_keys_are_found():
    path = ROOT / "README.md"
    right = (
        "[a](configs/debug.py) [b](https://x.org) `configs/debug.py:model=mcl` `models/config.py` `loop.py`"
    )
    assert missing_files(path, f"{right} `runs/a.py` `NAME.py`") == []
    wrong = "[a](configs/debugs.py) `configs/none.py` `no_such_module.py`"
    assert missing_files(path, wrong) == [
        "link configs/debugs.py",
        "file configs/none.py",
        "file no_such_module.py",
    ]
    assert keys_of_markdown("`config.train.remat` `--config.a.b=1` `config.json` `train.remat`") == [
        "train.remat",
        "a.b",
    ]
