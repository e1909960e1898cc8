"""The commands, files and configuration keys that a README or a docstring names."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from electra_jax.__main__ import find_commands
from support.paths import ROOT

PROGRAM, MODULES = "electra-jax", find_commands()
PYTHONS = ("python", "python3", ".venv/bin/python")
OPERATORS = {";", "&&", "||", "|", "&", "(", ")"}
REDIRECTIONS = {"<", ">", ">>"}
BEFORE_COMMANDS = ("do", "then", "else", "time", "nohup", "env", "exec", "!")
OMITTED = "…"  # in prose, a command with something left out is not checked
# First folder of a path that is no file of this repository but one that a command makes or a reader has.
MADE_BY_USERS = ("runs", "data", "exports", "bucket", "build", ".venv", "scratch")
# Files that READMEs name and that are rightly missing.
NOT_HERE = {
    "rtd.sh": "a script of microsoft/DeBERTa",
    "report.md": "what data_pipelines.clean writes",
    "focal_rtd.py": "the example that shows how to add an objective; a test makes it",
}
FILE = re.compile(r"[\w.-]+(?:/[\w.-]+)*\.(?:py|sh|md|toml)")


class Command(NamedTuple):
    """One simple command, and the file that names it."""

    source: str
    words: tuple[str, ...]

    @property
    def is_name(self) -> bool:
        """Whether it is only a program's name, as in "`python -m electra_jax.doctor` checks …"."""
        return len(self.words) == 3 and self.words[1] == "-m"

    def __str__(self) -> str:
        return f"{self.source}: {shlex.join(self.words)}"


def commands_of_markdown(source: str, text: str) -> list[Command]:
    """The commands of all ```bash blocks, read as one script, and of `code` in the text around them."""
    blocks = re.findall(r"^```(?:bash|sh)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    words = _split("\n".join(blocks))
    words += _of_prose(prose)
    return _commands(source, words)


def commands_of_docstring(source: str, text: str) -> list[Command]:
    """The commands of its indented lines, read as one script, and of its `code`."""
    blocks = re.findall(r"^ {4,}.*\n", text + "\n", re.MULTILINE)
    words = [found for found in _split("".join(blocks)) if OMITTED not in "".join(found)]
    words += _of_prose(text)
    return _commands(source, words)


def links_of_markdown(text: str) -> list[str]:
    """Targets of [text](target) that are files, without their #anchor."""
    targets = re.findall(r"\]\(([^)\s]+)\)", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE))
    return [target.partition("#")[0] for target in targets if not re.match(r"\w+:|#", target)]


def files_of_markdown(text: str) -> list[str]:
    """Files of this repository that `code` names: "configs/debug.py" of `configs/debug.py:model=mcl`."""
    codes = [code.partition(":")[0] for code in _inline_code(text)]
    return [code for code in codes if FILE.fullmatch(code) and code.split("/")[0] not in MADE_BY_USERS]


def keys_of_markdown(text: str) -> list[str]:
    """Keys "train.remat" of `config.train.remat` and `--config.train.remat=full`."""
    return [
        found[1]
        for code in _inline_code(text)
        if (found := re.fullmatch(r"(?:--)?config\.([a-z_0-9]+(?:\.[a-z_0-9]+)+)(?:=.*)?", code))
    ]


def missing_files(path: Path, text: str) -> list[str]:
    """Links and files in the README at `path` that do not exist; files may be named from its folder, from the
    repository's root, from electra_jax/, or by their name alone."""
    bases = (path.parent, ROOT, ROOT / "electra_jax")
    missing = [f"link {link}" for link in links_of_markdown(text) if not (path.parent / link).exists()]
    for name in files_of_markdown(text):
        is_placeholder = re.search(r"\b[A-Z][A-Z_]+\b", Path(name).stem) and name != "README.md"
        if is_placeholder or Path(name).name in NOT_HERE or any((base / name).exists() for base in bases):
            continue
        if "/" in name or not any(_tracked(name)):
            missing.append(f"file {name}")
    return missing


def split_run_arguments(command: Command) -> tuple[list[str], list[Command]]:
    """The words of a launcher before --, and what follows as the command that the launcher starts."""
    words = list(command.words)
    if "compile_only.sh" in words[1]:
        return words[:3], [Command(command.source, ("python", "-m", f"electra_jax.{words[2]}", *words[3:]))]
    if "--" not in words:
        return words, []
    place = words.index("--")
    run = ("python", "-m", "electra_jax.pretrain", *words[place + 1 :])
    return words[:place], [Command(command.source, run)]


def _tracked(name: str) -> Iterator[Path]:
    for folder in ("electra_jax", "data_pipelines", "configs", "launch", "tests"):
        yield from (ROOT / folder).rglob(name)


def _inline_code(text: str) -> list[str]:
    codes = re.findall(r"(?<!`)`([^`]+)`(?!`)", text)
    return [" ".join(code.replace("\\\n", " ").split()) for code in codes]


def _of_prose(text: str) -> list[list[str]]:
    """Commands in `code`; an [--option] in brackets is one. A command without options is just its name."""
    codes = [code.replace("[", "").replace("]", "") for code in _inline_code(text) if OMITTED not in code]
    commands = [words for code in codes for words in _split(code)]
    return [words if any(word.startswith("-") for word in words[2:]) else words[:3] for words in commands]


def _logical_lines(code: str) -> list[str]:
    """Lines with continuations joined."""
    return re.sub(r"\\+\n", " ", code).splitlines()


def _split(code: str) -> list[list[str]]:
    """The simple commands of a piece of shell, variables that it sets replaced by their values."""
    commands, variables = [], {}
    for line in _logical_lines(code):
        try:
            lexer = shlex.shlex(_replace(line, variables), posix=True, punctuation_chars=";&|")
            lexer.whitespace_split = True
            words = list(lexer)
        except ValueError:  # a quotation that does not end: prose
            continue
        current: list[str] = []
        targets = [place + 1 for place, word in enumerate(words) if word in REDIRECTIONS]
        words = [
            word for place, word in enumerate(words) if word not in REDIRECTIONS and place not in targets
        ]
        for word in [*words, ";"]:
            assignment = re.fullmatch(r"(\w+)=(.*)", word)
            if word in OPERATORS:
                commands += [current] if current else []
                current = []
            elif not current and assignment:
                variables[assignment[1]] = assignment[2]
            elif current or word not in BEFORE_COMMANDS:
                current.append(word)
    return commands


def _replace(line: str, variables: dict[str, str]) -> str:
    return re.sub(r"\$\{?(\w+)\}?", lambda found: variables.get(found[1], found[0]), line)


def _commands(source: str, found: list[list[str]]) -> list[Command]:
    """Those that are this project's. `electra-jax NAME` counts as `python -m MODULE`."""
    commands = []
    for words in found:
        if words[0] == PROGRAM and len(words) > 1 and not words[1].startswith("-") and words[1] != "COMMAND":
            words = ["python", "-m", MODULES.get(words[1], words[1]), *words[2:]]
        commands += [Command(source, tuple(words))] if _is_ours(words) else []
    return commands


def _is_ours(words: list[str]) -> bool:
    if len(words) < 2:
        return False
    if words[0] in PYTHONS:
        return words[1] == "-m" or words[1].startswith("launch/")
    return words[0] == "bash" and words[1].startswith("launch/")
