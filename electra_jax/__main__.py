"""All commands under one name: `electra-jax COMMAND …` is `python -m MODULE …`; alone it lists them.

electra-jax pretrain --config=configs/electra.py:size=small --workdir=runs/small
"""

import ast
import difflib
import re
import runpy
import sys
from pathlib import Path

from data_pipelines.command_errors import errors_on_the_terminal

ROOT = Path(__file__).parents[1]
IS_COMMAND = '\nif __name__ == "__main__":\n'
# In the order of a user's first walk. A command that is in no group comes last.
GROUPS = {
    "from text to a dataset": ("wikitext2", "clean", "score", "tokenizer", "corpus"),
    "pre-training": ("plan", "doctor", "pretrain", "report"),
    "using what was trained": ("trec", "finetune", "predict", "convert", "soup"),
    "comparing": ("compare", "evaluate", "benchmark"),
}


def find_commands() -> dict[str, str]:
    """Name → module of every command, found without importing any."""
    paths = [*(ROOT / "electra_jax").glob("[!_]*.py"), *(ROOT / "data_pipelines").rglob("[!_]*.py")]
    found = {path.stem: path for path in paths if IS_COMMAND in path.read_text(encoding="utf-8")}
    order = {name: place for place, name in enumerate(sum(GROUPS.values(), ()))}
    names = sorted(found, key=lambda name: (order.get(name, len(order)), name))
    return {name: ".".join(found[name].relative_to(ROOT).with_suffix("").parts) for name in names}


def docstring(module: str) -> str:
    """The docstring of a module, which is not imported."""
    source = ROOT.joinpath(*module.split(".")).with_suffix(".py").read_text(encoding="utf-8")
    return ast.get_docstring(ast.parse(source)) or ""


def listing(commands: dict[str, str]) -> str:
    """A line for each command, with the start of its docstring."""
    titles = {names[0]: title for title, names in GROUPS.items()}
    lines = ["usage: electra-jax COMMAND …"]
    for name, module in commands.items():
        text = re.split(r"[:;.](?:\s|$)", docstring(module))[0]
        lines += ["", f"{titles[name]}:"] if name in titles else []
        lines.append(f"  {name:12s}{' '.join(text.split())}")
    return "\n".join([*lines, "", "`electra-jax COMMAND --help` explains a command and its flags."])


def check_name(word: str, commands: dict[str, str]) -> None:
    """Raises ValueError, with the likeliest name, for a word that is no command."""
    if word in commands:
        return
    # "export" is a part of `convert export`.
    meant = [
        f"{name} {word}" for name, module in commands.items() if f"{module} {word} " in docstring(module)
    ]
    likely = meant or difflib.get_close_matches(word.lower(), commands, n=1)
    hint = f"Did you mean `electra-jax {likely[0]}`? " if likely else ""
    raise ValueError(f"electra-jax: got {word!r}, expected a command. {hint}`electra-jax` lists all.")


@errors_on_the_terminal()
def main() -> None:
    """Run the command that the first argument names, or list all."""
    commands, word = find_commands(), sys.argv[1] if sys.argv[1:] else "--help"
    if word in ("--help", "-help", "-h", "help"):
        print(listing(commands))
        return
    check_name(word, commands)
    del sys.argv[1]
    if not sys.flags.safe_path:
        sys.path.insert(0, "")  # as `python -m` does: a recipe may import modules beside it
    runpy.run_module(commands[word], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
