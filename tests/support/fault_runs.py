"""The run that faults are done to, and damages to files."""

import json
import os
import shutil

from support import tiny_run
from support.damage import flip_bit

NUM_STEPS, STOPPED_AT = 12, 8
CHANGES = {
    "train__num_steps": NUM_STEPS,
    "train__batch_size": 8,
    "eval__every": 4,
    "eval__batch_size": 8,
    "eval__max_batches": 1,
    "checkpoint__every": 4,
    "checkpoint__keep": 9,
    "log__every": 1,
}


def flags(workdir, data, **changes):
    """Flags of the run; `changes` as for `tiny_run.values`."""
    return tiny_run.command(workdir, data, **(CHANGES | changes))[3:]


def stop_early(reference, directory):
    """Copy a finished run as it was when the step STOPPED_AT had been saved."""
    shutil.copytree(reference, directory)
    shutil.rmtree(directory / "checkpoints" / str(NUM_STEPS))
    shutil.rmtree(directory / "plots", ignore_errors=True)
    (directory / "summary.json").unlink()
    metrics = directory / "metrics.jsonl"
    rows = map(json.loads, metrics.read_text().splitlines())
    kept = [
        row
        for row in rows
        if row["step"] <= STOPPED_AT and (row["step"], "loss" in row) != (STOPPED_AT, False)
    ]
    metrics.write_text("".join(json.dumps(row) + "\n" for row in kept))


def newest(directory):
    """The newest checkpoint of a run that was stopped early."""
    return directory / "checkpoints" / str(STOPPED_AT)


def flip(path, place, bit=4):
    """Flip a bit of the byte at the share `place` of a file."""
    size = path.stat().st_size
    flip_bit(path, min(size - 1, int(size * place)), bit)


def zero(path, place, size):
    """Fill bytes from the share `place` of a file with zeros; the last ones of a smaller file."""
    data = bytearray(path.read_bytes())
    start = max(0, min(len(data) - size, int(len(data) * place)))
    data[start : start + size] = bytes(len(data[start : start + size]))
    path.write_bytes(data)


def truncate(path, share):
    """Keep this share of a file."""
    os.truncate(path, int(path.stat().st_size * share))


def be_directory(path):
    """A directory in place of a file."""
    path.unlink(missing_ok=True)
    path.mkdir()


def be_link(path, target):
    """A link in place of a file or directory."""
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    path.symlink_to(target)


def edit_lines(path, edit):
    """`edit` gets and returns the lines of a text file, as bytes."""
    path.write_bytes(b"\n".join(edit(path.read_bytes().split(b"\n"))))
