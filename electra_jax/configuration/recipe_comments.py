"""The comments that recipes have beside their values, by key.

A comment belongs to the key of a dictionary, or to the keyword of a call, if it is behind the value or on
lines of its own directly above.
"""

import ast
import functools
import io
import tokenize
from pathlib import Path

from electra_jax.configuration.recipes import PACKAGE, RECIPES


def comment_of(key: str, recipe: str, *, is_pretraining: bool) -> str:
    """The comment on a key such as "train.num_steps": that of the recipe's file, or else of the files that
    hold defaults. "" if there is none.

    Args:
      recipe: path of the recipe's file.
      is_pretraining: whether the configuration is one of pre-training, whose defaults are in common.py and in
        the rows of the objectives.
    """
    section, _, rest = key.partition(".")
    if section == "pretraining":  # of an evaluation
        return comment_of(rest, recipe, is_pretraining=True)
    if section == "tasks":
        return comment_of(rest.partition(".")[2], str(RECIPES / "finetune.py"), is_pretraining=False)
    leaf, own = key.rpartition(".")[2], read_comments(recipe)
    candidates = [own.get(key), own.get(f"*.{leaf}")]
    if is_pretraining:
        shared = read_comments(str(RECIPES / "common.py"))
        candidates += [shared.get(key), _objectives().get(f"settings.{leaf}")]
    return next(filter(None, candidates), "")


@functools.cache
def _objectives() -> dict[str, str]:
    """The comments in the rows of all objectives."""
    paths = sorted((PACKAGE / "objectives").glob("*.py"))
    return {key: text for path in paths for key, text in read_comments(str(path)).items()}


@functools.cache
def read_comments(path: str) -> dict[str, str]:
    """Key → comment in a Python file. Keys of nested dictionaries are joined by dots; a key of a dictionary
    that stands alone, such as COURSES = {…}, is "*.KEY", too."""
    text = Path(path).read_text(encoding="utf-8")
    behind, above = _find_comments(text)
    comments: dict[str, str] = {}

    def visit(node: ast.AST, place: tuple[str, ...], line: int = 0) -> None:
        if isinstance(node, ast.Dict):
            for name, value in zip(node.keys, node.values, strict=True):
                if isinstance(name, ast.Constant) and isinstance(name.value, str):
                    keep(name.lineno, value, (*place, name.value), line)
                else:
                    visit(value, place, line)
        elif isinstance(node, ast.Call):
            for keyword in node.keywords:
                if keyword.arg is not None:
                    keep(keyword.lineno, keyword.value, (*place, keyword.arg), line)
        else:
            for child in ast.iter_child_nodes(node):
                visit(child, place, line)

    def keep(line: int, value: ast.expr, place: tuple[str, ...], outer_line: int) -> None:
        last = line if isinstance(value, ast.Dict | ast.Call) else value.end_lineno or line
        words = [*above.get(line, []), *([behind[last]] if last in behind else [])]
        if words and line != outer_line:  # on one line with its section, which has the comment
            comments.setdefault(".".join(place), " ".join(words))
            if len(place) == 1:
                comments.setdefault(f"*.{place[0]}", " ".join(words))
        visit(value, place, line)

    visit(ast.parse(text), ())
    return comments


def _find_comments(text: str) -> tuple[dict[int, str], dict[int, list[str]]]:
    """(line → the comment behind its code, line → the comment lines directly above it)."""
    behind: dict[int, str] = {}
    alone: dict[int, str] = {}
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            is_alone = token.line[: token.start[1]].strip() == ""
            (alone if is_alone else behind)[token.start[0]] = token.string.lstrip("# ").rstrip()
    above: dict[int, list[str]] = {}
    block: list[str] = []
    for line in range(1, text.count("\n") + 2):
        if line in alone:
            block.append(alone[line])
        elif block:
            above[line], block = block, []
    return behind, above
