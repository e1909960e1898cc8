"""Every command works where the locale is POSIX, whose encoding is ASCII: printing, and reading files."""

import ast
import io
import json
import os
import subprocess
import sys

import pytest

from data_pipelines.command_errors import accept_any_text
from support.paths import ROOT

ASCII = {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
FOLDERS = ("electra_jax", "data_pipelines", "configs", "launch")
SOURCES = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
COMMANDS = [
    path
    for path in SOURCES
    if '\nif __name__ == "__main__":' in path.read_text(encoding="utf-8")
    and path.relative_to(ROOT).parts[0] != "launch"
]
name_of = lambda path: str(path.relative_to(ROOT))
TEXT = "tea ▁ é 日本 pan"


def with_locale_encoding(source):
    """Places that read or write text files in the encoding of the locale."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        is_text = name.endswith((".read_text", ".write_text")) or (
            (name == "open" or (name.endswith(".open") and name != "os.open"))
            and not any("b" in a.value for a in node.args[:2] if isinstance(getattr(a, "value", 0), str))
        )
        if is_text and "encoding" not in {keyword.arg for keyword in node.keywords}:
            found.append(f"line {node.lineno}: {ast.unparse(node)}")
    return found


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_text_files_are_utf_8_in_any_locale(path):
    assert not with_locale_encoding(path.read_text(encoding="utf-8"))


def test_a_file_in_the_encoding_of_the_locale_is_found():
    for line in ("path.read_text()", "open(path)", "path.open('w')", "a.b.write_text('x')", "open('a', 'r')"):
        assert with_locale_encoding(line), line
    for line in ("path.read_text(encoding='utf-8')", "open(path, 'rb')", "write_text(path, 'x')"):
        assert not with_locale_encoding(line), line


@pytest.mark.parametrize("path", COMMANDS, ids=name_of)
def test_every_command_accepts_any_text_before_it_prints(path):
    """Its main is `errors_on_the_terminal` from its first line on, or it starts by `run_command`."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    [start] = [
        node for node in tree.body if isinstance(node, ast.If) and "__main__" in ast.unparse(node.test)
    ]
    mains = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "main"]
    decorators = [ast.unparse(decorator) for main in mains for decorator in main.decorator_list]
    assert any(name.startswith("errors_on_the_terminal(") for name in decorators) or ast.unparse(
        start.body[0]
    ).startswith("run_command(")


def run(*words, **options):
    return subprocess.run(
        [sys.executable, "-m", *words],
        env=os.environ | ASCII,
        cwd=ROOT,
        capture_output=True,
        check=False,
        **options,
    )


@pytest.mark.parametrize("words", [["data_pipelines.corpus", "--help"], ["electra_jax.plan", "--help"]])
def test_help(words):
    result = run(*words)
    assert b"Traceback" not in result.stderr and rb"\u2026" in result.stdout + result.stderr


def test_a_tokenizer_and_a_dataset(tmp_path):
    """Names of files are printed as the bytes that they have on disk."""
    source, tokenizer = tmp_path / "é.jsonl", tmp_path / "日本"
    source.write_text(f"{json.dumps({'text': TEXT}, ensure_ascii=False)}\n" * 9, encoding="utf-8")
    train = ["--input", str(source), "--out", str(tokenizer), "--vocab_size", "15"]
    result = run("data_pipelines.tokenizer", *train)
    assert result.returncode == 0, result.stderr
    assert rb"sample           \u2581 t e a" in result.stdout and os.fsencode(tokenizer) in result.stdout
    build = ["--train", str(source), "--validation", str(source), "--tokenizer", str(tokenizer)]
    build += ["--sequence_length", "16", "--packing", "documents", "--num_processes", "1", "--out"]
    for _ in range(2):  # the second time it reads the first one's files
        result = run("data_pipelines.corpus", *build, str(tmp_path / "corpus"))
        assert result.returncode == 0, result.stderr
    result = run("data_pipelines.corpus", *build, str(tmp_path / "naïve"))
    assert (
        result.returncode == 1 and b"name is not UTF-8" in result.stderr and b"Traceback" not in result.stderr
    )


def test_what_an_encoding_lacks_is_escaped(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "stderr", None)  # as without a console
    accept_any_text()
    print("é ▁ 😀 \udcc3\udca9 \ud800", flush=True)
    assert stream.buffer.getvalue() == b"\\xe9 \\u2581 \\U0001f600 \xc3\xa9 \\ud800\n"
