"""The real Weights & Biases, offline: its files hold the rows, and a run that resumes has one identity."""

import json
import os
import struct
import subprocess
import sys

from support.paths import ROOT

BLOCK = 32_768  # bytes
# In a process of its own, since W&B starts services and changes the process that imports it.
PROGRAM = """
import sys, pathlib
from electra_jax.training.trackers.background import open_trackers
from electra_jax.training.trackers.interface import TrackedRun
from electra_jax.training.writers import MetricWriters
directory, start = pathlib.Path(sys.argv[1]), int(sys.argv[2])
trackers = open_trackers(("wandb",), TrackedRun(directory, "small", {"train": {"num_steps": 9}}, start))
with MetricWriters(directory, progress=False, total_steps=9, start_step=start, trackers=trackers) as metrics:
    for step in range(start + 1, start + 4):
        metrics.write(step, {"loss": 1 / step})
    metrics.write(step, {"mlm_loss": 2.5}, prefix="eval/")
"""


def records_of(path):
    """The records of a .wandb file: a header of 7 bytes, then LevelDB's log format. Its blocks count from the
    start of the file."""
    data, place, record = path.read_bytes(), 7, b""
    while place < len(data):
        if BLOCK - place % BLOCK < 7:  # no room for a record's header
            place += BLOCK - place % BLOCK
            continue
        _, size, kind = struct.unpack_from("<IHB", data, place)
        record += data[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # a whole record, or the last part of one
            yield wandb_record(record)
            record = b""


def wandb_record(data):
    from wandb.proto import wandb_internal_pb2

    return wandb_internal_pb2.Record.FromString(data)


def test_rows_are_in_its_files(tmp_path):
    for start in (0, 3):
        outcome = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(tmp_path / "run"), str(start)],
            cwd=ROOT,
            env=os.environ
            | {"WANDB_MODE": "offline", "WANDB_DIR": "", "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert outcome.returncode == 0 and "WARNING" not in outcome.stderr, outcome.stderr
        assert "Weights & Biases: " in outcome.stderr
    identities, rows = set(), []
    for path in sorted((tmp_path / "run" / "wandb").glob("offline-run-*/run-*.wandb")):
        for record in records_of(path):
            if record.WhichOneof("record_type") == "run":
                identities.add((record.run.run_id, record.run.display_name, record.run.project))
            elif record.WhichOneof("record_type") == "history":
                items = record.history.item
                row = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}
                rows.append({name: value for name, value in row.items() if not name.startswith("_")})
    ((identity, name, project),) = identities
    assert identity == (tmp_path / "run" / "wandb_run_id.txt").read_text().strip()
    assert (name, project) == ("small", "electra_jax")
    training = [{"train_step": step, "loss": 1 / step} for step in range(1, 7)]
    evaluations = [{"train_step": step, "eval/mlm_loss": 2.5} for step in (3, 6)]
    assert rows == [*training[:3], evaluations[0], *training[3:], evaluations[1]]
