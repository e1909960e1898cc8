"""Files of a run directory that were damaged, lost or replaced before the run resumes."""

import os
import shutil

import pytest

from support.fault_runs import be_directory, be_link, edit_lines, flags, flip, newest
from support.faults import EXACT, REFUSED, Fault, clear, contents

SAMPLE = 5
TORN = b'{"step": 9, "lo'


def append(name, data):
    """Append bytes to a file of the run."""
    return lambda run: write(name, (run / name).read_bytes() + data)(run)


def write(name, data):
    """Replace a file of the run."""
    return lambda run: (run / name).write_bytes(data)


def remove(name):
    """Remove a file or a directory of the run."""
    return lambda run: shutil.rmtree(run / name) if (run / name).is_dir() else (run / name).unlink()


def metrics(edit):
    """Edit the lines of metrics.jsonl."""
    return lambda run: edit_lines(run / "metrics.jsonl", edit)


def replaced(number, old, new):
    """Replace text in a line of metrics.jsonl."""
    return metrics(lambda lines: [*lines[:number], lines[number].replace(old, new), *lines[number + 1 :]])


def copied(source, target):
    """Copy a checkpoint under another name."""
    return lambda run: shutil.copytree(run / "checkpoints" / source, run / "checkpoints" / target)


def moved_behind_link(run):
    """The checkpoints are elsewhere, behind a link."""
    shutil.move(run / "checkpoints", run.parent / "elsewhere")
    (run / "checkpoints").symlink_to(run.parent / "elsewhere")


HARMLESS = [
    Fault("nothing"),
    Fault("a checkpoint that was not finished", copied("8", "10.orbax-checkpoint-tmp")),
    Fault("a numbered checkpoint that was not finished", copied("8", "10.orbax-checkpoint-tmp-12")),
    Fault("other files among the checkpoints", lambda run: (run / "checkpoints/README").write_text("mine")),
    Fault("checkpoints behind a link", moved_behind_link),
    Fault("newest checkpoint removed", remove("checkpoints/8")),
    Fault("a temporary config.json", write("config.json.tmp", b"half")),
    Fault("a temporary metrics.jsonl", write("metrics.jsonl.tmp", b"half")),
    Fault("torn row", append("metrics.jsonl", TORN)),
    Fault("torn row that is not UTF-8", append("metrics.jsonl", TORN + b"\xff\xfe")),
    Fault("zeros after the rows", append("metrics.jsonl", bytes(4096))),
    Fault("parameters.txt removed", remove("parameters.txt")),
    Fault("datasets.json removed", remove("datasets.json")),
    Fault("sessions.jsonl removed", remove("sessions.jsonl")),
    Fault("tokenizer removed", remove("tokenizer")),
]
NAMED = [
    *(
        Fault(f"config.json {what}", write("config.json", data), (EXACT, REFUSED), "config.json")
        for what, data in {
            "empty": b"",
            "cut": b'{"config": {"train": {"num_st',
            "a list": b"[]",
            "a number": b"3",
            "null": b"null",
            "of another form": b'{"config": 5}',
            "binary": bytes(range(256)),
            "deep": b"[" * 100_000,
        }.items()
    ),
    Fault(
        "config.json flipped", lambda run: flip(run / "config.json", 0.5, 7), (EXACT, REFUSED), "config.json"
    ),
    Fault(
        "config.json a directory",
        lambda run: be_directory(run / "config.json"),
        (EXACT, REFUSED),
        "config.json",
    ),
    Fault(
        "metrics.jsonl a directory",
        lambda run: be_directory(run / "metrics.jsonl"),
        (REFUSED,),
        "metrics.jsonl",
    ),
    Fault(
        "metrics.jsonl a dangling link",
        lambda run: be_link(run / "metrics.jsonl", "/nonexistent/metrics"),
        (EXACT, REFUSED),
        "metrics.jsonl",
    ),
    *(
        Fault(f"metrics.jsonl {what}", damage, (EXACT, REFUSED), "metrics.jsonl")
        for what, damage in {
            "with a bit flipped in a key": replaced(3, b'"step"', b'"stfp"'),
            "with a broken row": replaced(3, b'"loss"', b'"lo}ss""'),
            "with a list for a row": metrics(lambda lines: [*lines[:3], b"[1, 2]", *lines[4:]]),
            "with a blank row": metrics(lambda lines: [*lines[:3], b"", *lines[3:]]),
            "with a number for a row": metrics(lambda lines: [*lines[:3], b"7", *lines[3:]]),
            "with a text for a step": replaced(3, b'"step": ', b'"step": "x", "was": '),
            "with a text for a loss": replaced(1, b'"loss": ', b'"loss": "x", "was": '),
            "with a list for a loss": replaced(1, b'"loss": ', b'"loss": [], "was": '),
            "with an endless step": replaced(3, b'"step": ', b'"step": 1e999, "was": '),
            "with zeros and a line end": append("metrics.jsonl", bytes(4096) + b"\n"),
            "with \\r\\n": metrics(lambda lines: [line + b"\r" if line else line for line in lines]),
        }.items()
    ),
    *(
        Fault(f"{name} with {data.decode()}", write(name, data + b"\n"), (REFUSED,), f"{name}, line 1")
        for name, data in (
            ("sessions.jsonl", b'{"start_step": "0"}'),
            ("sessions.jsonl", b'{"start_step": 0, "log_every": [4]}'),
            ("sessions.jsonl", b'{"start_step": 0, "num_steps": 20}'),
            ("sessions.jsonl", b'{"start_step": 0, "versions": ["jax"]}'),
            ("sessions.jsonl", b"[]"),
            ("events.jsonl", b'{"step": 4}'),
            ("events.jsonl", b'{"step": 4, "kind": ["alarm"]}'),
            ("events.jsonl", b'{"step": 4, "kind": "rows_lost", "ranges": [1, 4]}'),
            ("events.jsonl", b'{"step": 4, "kind": "alarm", "message": "m", "task": []}'),
        )
    ),
    Fault("sessions.jsonl damaged", write("sessions.jsonl", b"{{{\n"), (EXACT, REFUSED), "sessions.jsonl"),
    Fault(
        "sessions.jsonl a directory", lambda run: be_directory(run / "sessions.jsonl"), (REFUSED,), "sessions"
    ),
    Fault("datasets.json damaged", write("datasets.json", b"{"), (EXACT, REFUSED), "datasets.json"),
    Fault(
        "tokenizer without its files", lambda run: [path.unlink() for path in (run / "tokenizer").iterdir()]
    ),
    Fault("tokenizer_meta.json damaged", write("tokenizer/tokenizer_meta.json", b"{")),
    Fault("tokenizer's model flipped", lambda run: flip(run / "tokenizer/spm.model", 0.5)),
    Fault("tokenizer's model removed", remove("tokenizer/spm.model")),
    Fault(
        "summary.json a directory",
        lambda run: (run / "summary.json").mkdir(),
        (EXACT, REFUSED),
        "summary.json",
    ),
    Fault("plots a file", write("plots", b"mine"), (EXACT, REFUSED), "plots"),
    Fault(
        "parameters.txt a directory",
        lambda run: be_directory(run / "parameters.txt"),
        (EXACT, REFUSED),
        "parameters.txt",
    ),
    Fault(
        "checkpoints a dangling link",
        lambda run: be_link(run / "checkpoints", "/nonexistent/checkpoints"),
        (REFUSED,),
        "checkpoints",
    ),
    Fault("all checkpoints removed", remove("checkpoints")),
    Fault("an empty directory for the newest checkpoint", lambda run: _emptied(newest(run))),
    Fault("a file for the newest checkpoint", lambda run: _filed(newest(run))),
    Fault("a copy with a later step", copied("8", "10")),
    Fault("a copy with a step beyond the end", copied("8", "99")),
]
FAULTS = HARMLESS + NAMED


def _emptied(path):
    shutil.rmtree(path)
    path.mkdir()


def _filed(path):
    shutil.rmtree(path)
    path.write_text("mine")


def test_a_damaged_run_resumes_exactly_or_is_refused(fault, stopped, data, forks, settle):
    fault.do(stopped)
    before = contents(stopped)
    run = forks.run("electra_jax.pretrain", *flags(stopped, data))
    settle(fault, stopped, run, before=before)


OTHER = {
    "optimizer.learning_rate": 0.5,
    "objective.disc_weight": 3.0,
    "data.seed": 7,
    "train.batch_size": 16,
    "model.hidden_dropout": 0.0,
}


@pytest.mark.parametrize("key", OTHER)
def test_another_configuration_is_refused(key, stopped, data, forks, record):
    run = forks.run("electra_jax.pretrain", *flags(stopped, data), f"--config.{key}={OTHER[key]}")
    outcome = clear(run.code, run.text, key)
    record(f"another {key}", outcome)
    assert outcome == REFUSED, run.text
    assert not os.path.exists(stopped / "summary.json")
