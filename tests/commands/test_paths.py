"""Every path flag of every command: empty, of another kind, or a URL that it does not take, it is an error
before anything is written."""

import ast
import importlib

import pytest

from data_pipelines.path_flags import DIRECTORY, FILE, NAME, NEW_DIRECTORY, NEW_FILE
from electra_jax.__main__ import find_commands
from support.commands import run_module
from support.paths import ROOT

CONFIG = "--config=configs/debug.py"
TASK = "--config=configs/finetune.py:task=trec6"
# Command → its words, in which each flag has a value of its own.
LINES = {
    "pretrain": [CONFIG, "--workdir=new"],
    "doctor": [CONFIG, "--workdir=new"],
    "finetune": [TASK, "--workdir=new", "--init_from=missing"],
    "evaluate": [
        *("--config=configs/evaluate.py:data=missing", "--workdir=new", "--init_from=missing"),
        *("--minimal_pairs=missing", "--json=new.json", "--outside=missing"),
    ],
    "compare": [CONFIG, "--workdir=new", "--tasks=missing.py", "--minimal_pairs=missing"],
    "plan": [CONFIG, "--device=cpu:1", "--json=new.json", "--prices=missing.json"],
    "benchmark": ["--suite=cpu", "--json=new.json", "--out=new", "--data=missing"],
    "soup": ["--runs=missing,other", "--workdir=new", "--datasets=missing"],
    "predict": ["--model=missing", "--input=missing", "--out=new.jsonl"],
    "convert export": ["--workdir=missing", "--out=new", "--verification_text=none"],
    "convert verify": ["missing"],
    "convert import": [
        *("--from=missing", "--kind=huggingface", "--out=new", "--generator=missing"),
        *("--config=missing.py", "--tokenizer=missing", "--new_tokenizer=missing"),
    ],
    "clean": ["--input=missing", "--out=new", "--decontaminate=missing", "--bad_words=missing"],
    "corpus": [
        *("--tokenizer=missing", "--train=missing", "--validation=missing", "--out=new"),
        *("--sequence_length=32", "--packing=documents"),
    ],
    "score": [
        "--input=missing",
        "--positive=missing",
        "--negative=missing",
        "--examples=missing",
        "--out=new.jsonl",
    ],
    "tokenizer": ["--out=new", "--from=missing", "--input=missing"],
    "report": ["missing", "--out=new.html", "--texts=missing", "--json=new.json"],
    "trec": ["--out=new"],
    "wikitext2": ["--out=new"],
}
# Flags that are no path of a file system, of all commands.
OTHERS = {
    "repair_unicode",
    "unicode_form",
    "mask",
    "masked_copies",
    "normalize",
    "width",
    "phone_regions",
    "languages",
    "language_threshold",
    "rules",
    "set",
    "duplicates",
    "similarity",
    "evaluation_fields",
    "shared_words",
    "min_shared",
    "max_examples",
    "max_pairs",
    "max_score",
    "min_score",
    "copies",
    "losses",
    "example_share",
    "max_document_chars",
    "max_record_bytes",
    "add_words",
    "again",
    "as_configured",
    "batch_size",
    "beside",
    "best",
    "byte_fallback",
    "change_num_steps",
    "checkpoints",
    "character_coverage",
    "compile_as",
    "coordinator",
    "custom_code",
    "data_license",
    "deduplicate",
    "demo",
    "device",
    "different_starts",
    "distributed",
    "document_separator",
    "dollars_per_hour",
    "dry_run",
    "dtype",
    "embedding_sharing",
    "every_layer",
    "expect_devices",
    "field",
    "format",
    "frozen",
    "hours_between_stops",
    "inexact_generator",
    "input_format",
    "keep_fraction",
    "kind",
    "labelled",
    "language",
    "license",
    "limit_factor",
    "loss_field",
    "lowercase",
    "max_training_chars",
    "memory_gib",
    "method",
    "min_frequency",
    "missing_generator",
    "model_type",
    "network_gbps",
    "ngrams",
    "noise",
    "normalization",
    "num_processes",
    "on_invalid_utf8",
    "packing",
    "pair_column",
    "parts",
    "peak_flops",
    "pretrainings",
    "print_config",
    "probe",
    "process_id",
    "read_all",
    "rounds",
    "runner",
    "save_rate",
    "score",
    "score_field",
    "search",
    "seed",
    "sentences",
    "seeds",
    "sequence_length",
    "start_over",
    "step",
    "steps",
    "strip_accents",
    "suite",
    "sweep",
    "text_column",
    "text_field",
    "timeout",
    "tokenize_chinese_chars",
    "tokens",
    "top",
    "utilization",
    "validation_fraction",
    "variants",
    "vocab_size",
}
SPELLED = {"source": "from", "recipe": "config", "directory": "DIR"}
PLACES = ("file", "folder", "file/x", "new", "new.json", "new.jsonl", "new.html")
BAD = {
    NEW_DIRECTORY: ("", "file", "file/x", "az://b/x", "file:///x", "gs:/x"),
    DIRECTORY: ("", "file", "az://b/x", "file:///x"),
    NEW_FILE: ("", "folder", "file/x", "gs://b/x", "file:///x"),
    FILE: ("", "folder", "gs://b/x"),
    NAME: ("", "az://b/x", "file:///x"),
}


def paths_of(command):
    """The path flags of a command, as they are spelled → what they may be."""
    name, _, part = command.partition(" ")
    module = importlib.import_module(find_commands()[name])
    if part:
        paths = importlib.import_module("electra_jax.conversion.command_line").PATHS[part]
    else:
        paths = getattr(module, "PATHS", {})
    workdir = {"workdir": NEW_DIRECTORY} if any("--workdir" in word for word in LINES[command]) else {}
    return {SPELLED.get(flag, flag): kind for flag, kind in (workdir | paths).items()}


def with_value(words, flag, value):
    """The words with another value for a flag; DIR stands alone."""
    if flag == "DIR":
        return [value]
    return [f"--{flag}={value}" if word.startswith(f"--{flag}=") else word for word in words]


def cases():
    for command, words in LINES.items():
        for flag, kind in paths_of(command).items():
            for value in BAD[kind]:
                yield command, flag, value, with_value(words, flag, value)


@pytest.mark.slow
def test_a_wrong_path_is_an_error_that_names_the_flag(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("x")
    modules, all_cases = find_commands(), list(cases())
    lines = [
        [modules[command.split()[0]], *command.split()[1:], *(placed(word, tmp_path) for word in words)]
        for command, _, _, words in all_cases
    ]
    wrong = []
    for (command, flag, value, _), words in zip(all_cases, lines, strict=True):
        outcome = run_module(*words)
        spelled = flag if flag == "DIR" else f"--{flag}"
        if (
            outcome.returncode != 1
            or f"{spelled}: got " not in outcome.stderr
            or "Traceback" in outcome.stderr
        ):
            wrong.append((command, flag, value, outcome.returncode, outcome.stderr[-300:]))
    assert wrong == []
    assert len(all_cases) > 120
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def placed(word, folder):
    """A word whose value is one of the places, below `folder`."""
    flag, equals, value = word.rpartition("=")
    return f"{flag}{equals}{folder / value}" if value in PLACES else word


def names_of_flags(path):
    """The flags that a module defines, from its source."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call) or not node.args or not isinstance(node.args[0], ast.Constant):
            continue
        name, function = node.args[0].value, ast.unparse(node.func).rpartition(".")[2]
        if function.startswith("DEFINE_") or function == "define_number":
            yield name
        elif isinstance(name, str) and name.startswith("--") and function in ("add", "add_argument", "flag"):
            yield name.removeprefix("--")


def test_every_flag_of_every_command_is_a_path_or_known_to_be_none():
    places = ("electra_jax", "electra_jax/*", "data_pipelines", "data_pipelines/sample")
    files = {path for place in places for path in ROOT.glob(f"{place}/*.py")}
    known = {flag for command in LINES for flag in paths_of(command)} | {*OTHERS, "config", "seeds"}
    flags = {name for path in files for name in names_of_flags(path) if isinstance(name, str)}
    assert flags <= known, flags - known
    assert len(flags) > 60


def test_every_command_is_here():
    assert {line.split()[0] for line in LINES} == set(find_commands())


@pytest.mark.parametrize("command", LINES)
def test_every_path_of_a_command_is_in_its_line(command):
    words = LINES[command]
    for flag in paths_of(command):
        assert flag == "DIR" or any(word.startswith(f"--{flag}=") for word in words), flag
