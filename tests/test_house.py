"""How the code is laid out: commands on top, small files and functions, tests that use only public names."""

import ast
import re
from pathlib import Path

import pytest

from support.paths import ROOT

MAX_COMMANDS, MAX_COMMAND_LINES = 12, 80
MAX_FILE_LINES, MAX_FUNCTION_LINES, MAX_PARAMETERS = 350, 60, 8
# Function → why it is larger than the ceilings above.
EXCEPTIONS: dict[str, str] = {}
SAYS_NOTHING = {"utils", "util", "helpers", "misc"}  # names of modules
OF_NAMED_TUPLES = {
    "_replace",
    "_asdict",
    "_fields",
    "_make",
    "_field_defaults",
}  # public in spite of their names

COMMANDS = sorted(path for path in (ROOT / "electra_jax").glob("*.py") if path.name != "__init__.py")
SOURCES = [
    path
    for folder in ("electra_jax", "data_pipelines", "configs", "launch")
    for path in sorted((ROOT / folder).rglob("*.py"))
]
TESTS = sorted((ROOT / "tests").rglob("*.py"))
PROSE = [
    path
    for folder in ("electra_jax", "data_pipelines", "configs", "launch", "tests")
    for path in sorted((ROOT / folder).rglob("*"))
    if path.suffix in (".py", ".sh", ".md", ".json")
]
name_of = lambda path: str(path.relative_to(ROOT))


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def check_length(path: Path, maximum: int) -> None:
    num_lines = len(read(path).splitlines())
    assert num_lines <= maximum, f"{name_of(path)}: got {num_lines} lines, expected at most {maximum}"


def functions(tree: ast.AST, above: str = "") -> list[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """(qualified name, function) of all functions, methods and inner functions."""
    found = []
    for node in ast.iter_child_nodes(tree):
        is_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        name = f"{above}.{node.name}" if is_function or isinstance(node, ast.ClassDef) else above
        found += [(name[1:], node)] if is_function else []
        found += functions(node, name)
    return found


def num_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function without its docstring."""
    total = function.end_lineno - function.lineno + 1
    if ast.get_docstring(function) is None:
        return total
    docstring = function.body[0]
    return total - (docstring.end_lineno - docstring.lineno + 1)


def num_parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Named parameters without self or cls."""
    arguments = function.args
    names = [a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    return len(names) - (names[:1] in (["self"], ["cls"]))


def too_large(source: str) -> dict[str, str]:
    """Functions beyond the ceilings, and their sizes."""
    return {
        name: f"{num_lines(function)} lines, {num_parameters(function)} parameters"
        for name, function in functions(ast.parse(source))
        if num_lines(function) > MAX_FUNCTION_LINES or num_parameters(function) > MAX_PARAMETERS
    }


def private_names(sources: list[str]) -> set[str]:
    """Names with one leading underscore that these modules define."""
    nodes = [node for source in sources for node in ast.walk(ast.parse(source))]
    defined = {
        node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    }
    defined |= {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    defined |= {
        node.attr for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
    }
    return {name for name in defined if re.match("_[^_]", name)} - OF_NAMED_TUPLES


def uses_of_private_names(source: str, private: set[str]) -> list[str]:
    """Places where a test imports one of `private`, reads it from an object, or names it to setattr and the
    like."""
    found = []
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(("electra_jax", "data_pipe")):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.Attribute):
            is_own = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
            names = [] if is_own else [node.attr]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("attr", "patch", "object")):
            texts = [a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
            names = [part for text in texts for part in text.split(".")]
        found += [f"line {node.lineno}: {name}" for name in names if name in private]
    return found


PRIVATE = private_names([read(path) for path in SOURCES])


def test_commands_are_few():
    assert len(COMMANDS) <= MAX_COMMANDS, [path.name for path in COMMANDS]


@pytest.mark.parametrize("path", COMMANDS, ids=name_of)
def test_a_module_outside_the_folders_is_a_command(path):
    tree = ast.parse(read(path))
    assert "main" in [name for name, _ in functions(tree)]
    assert any(
        isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'" for node in tree.body
    )
    check_length(path, MAX_COMMAND_LINES)


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_files_and_functions_are_small(path):
    assert path.stem not in SAYS_NOTHING
    check_length(path, MAX_FILE_LINES)
    found = too_large(read(path))
    large = [f"{name}: {size}" for name, size in found.items() if f"{name_of(path)}:{name}" not in EXCEPTIONS]
    assert not large, "\n".join(large)


def test_exceptions_are_still_needed():
    for place in EXCEPTIONS:
        path, _, function = place.partition(":")
        assert function in too_large(read(ROOT / path)), place


@pytest.mark.parametrize("path", PROSE, ids=name_of)
def test_nothing_is_left_to_do(path):
    assert not re.findall(r"\b(?:TO" r"DO|FIX" r"ME|XX" r"X)\b", read(path))


@pytest.mark.parametrize("path", TESTS, ids=name_of)
def test_tests_use_public_names_and_no_other_test(path):
    found = uses_of_private_names(read(path), PRIVATE)
    for node in ast.walk(ast.parse(read(path))):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in getattr(node, "names", []) if isinstance(alias, ast.alias)]
        found += [
            f"line {node.lineno}: imports {name}"
            for name in names
            if re.match(r"(.*\.)?(test_\w+|conftest)(\.|$)", name)
        ]
    assert not found, "\n".join(found)


def test_a_large_function_is_found():
    body = "\n".join("    x = 1" for _ in range(MAX_FUNCTION_LINES))
    parameters = ", ".join(f"p{index}" for index in range(MAX_PARAMETERS + 1))
    lines = f"{MAX_FUNCTION_LINES + 1} lines, 0 parameters"
    assert too_large(f"class A:\n  def f(self):\n{body}") == {"A.f": lines}
    assert too_large(f"def f({parameters}): ...") == {"f": f"1 lines, {MAX_PARAMETERS + 1} parameters"}
    shorter = body.removesuffix("    x = 1")
    assert too_large(f'def f():\n    """A\n\n    B."""\n{shorter}') == {}


def test_a_private_name_is_found():
    private = private_names(
        ["def _f(): ...\nclass A:\n    def __init__(self): self._x = 1\n_Y = self._replace"]
    )
    assert private == {"_f", "_x", "_Y"}
    for line in (
        "from electra_jax.a import _f",
        "a._f()",
        "A()._x",
        "monkeypatch.setattr(a, '_Y', 1)",
        "patch('electra_jax.a._f')",
    ):
        assert uses_of_private_names(line, private), line
    for line in ("self._x", "a._replace(b=1)", "torch._C", "a.f", "'_f'"):
        assert not uses_of_private_names(line, private), line


def test_test_modules_have_names_of_their_own():
    """pytest imports them by their names alone, since their folders are no packages."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert [name for name in set(names) if names.count(name) > 1] == []
