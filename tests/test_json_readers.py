"""All JSON of files is read by data_pipelines/json_files.py, all arrays by huggingface/array_files.py."""

import ast
from pathlib import Path

import pytest

from support.paths import ROOT

SOURCES = [
    path
    for folder in ("electra_jax", "data_pipelines", "configs", "launch")
    for path in sorted((ROOT / folder).rglob("*.py"))
]
# Call → the only files that may have it.
ONLY_IN = {
    "json.load": (),
    "json.loads": ("data_pipelines/json_files.py",),
    "load_file": (),
    "safe_open": ("electra_jax/huggingface/array_files.py",),
    "torch.load": ("electra_jax/huggingface/readers.py",),
}
# Text that is no file's → why it is well-formed.
NOT_OF_FILES = {
    "json.loads(outcome.stdout)": "of a cloud's own command, launch/tpu_machine.py",
    "json.loads(bytes(one[one != 0]))": "of the other processes of a run",
    "json.loads(tokenizer.to_str())": "of an object of the library tokenizers",
}


def forbidden_calls(source: str, name: str) -> list[str]:
    """Calls that only other files may have; `json.loads(json.dumps(…))` is a copy."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        call, text = ast.unparse(node.func), ast.unparse(node)
        files = ONLY_IN.get(call)
        is_copy = text.startswith("json.loads(json.dumps(")
        if files is not None and name not in files and not is_copy and text not in NOT_OF_FILES:
            found.append(f"{name}:{node.lineno}: {text}")
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_are_read_by_their_readers(path: Path):
    found = forbidden_calls(path.read_text(encoding="utf-8"), path.relative_to(ROOT).as_posix())
    assert not found, "use read_json or parse_json, read_safetensors:\n" + "\n".join(found)


@pytest.mark.parametrize(
    "line", ["json.loads(path.read_text())", "json.load(file)", "load_file(path)", "torch.load(path)"]
)
def test_another_reader_is_found(line):
    assert forbidden_calls(line, "electra_jax/a.py") == [f"electra_jax/a.py:1: {line}"]
    assert not forbidden_calls("json.loads(json.dumps(config))", "electra_jax/a.py")
