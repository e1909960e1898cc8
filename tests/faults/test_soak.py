"""A long run with evaluations, checkpoints, probes and a rollback: memory, descriptors and threads do
not grow.

`pytest -s` prints the figures.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from electra_jax.training.events import read_events
from support.one_bad_batch import batch_key
from support.paths import ROOT
from support.poisoned import batch_of
from support.tiny_run import command

STEPS, BAD_BATCH, BATCH = 20_000, 7_000, 8
CHANGES = {
    "train__num_steps": STEPS,
    "train__batch_size": BATCH,
    "eval__every": STEPS // 50,
    "checkpoint__every": STEPS // 50,
    "log__every": STEPS // 100,
    "probe__every": STEPS // 5,
    "probe__num_epochs": 1,
    "probe__text": "text",
    "probe__label": "label",
    "trouble__on_nonfinite": "rollback",
    "trouble__rollback_steps": 3,
}
MOST_KIB = 1.0  # of growth in a step, in the second half
SECONDS_BETWEEN = 1.0


class Sample(NamedTuple):
    """A look at the process."""

    step: int
    kib: int
    descriptors: int
    threads: int
    seconds: float


def look(process, metrics, began):
    """A sample; None while there is no row, and when the process is at its end."""
    try:
        folder = Path(f"/proc/{process.pid}")
        status = (folder / "status").read_text().splitlines()
        kib = next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))
        counts = [len(os.listdir(folder / name)) for name in ("fd", "task")]
        return Sample(last_step(metrics), kib, *counts, time.monotonic() - began)
    except (OSError, StopIteration, LookupError, ValueError):
        return None


def last_step(metrics):
    """Of the last whole row."""
    with metrics.open("rb") as file:
        file.seek(max(0, metrics.stat().st_size - 4_000))
        return json.loads(file.read().splitlines()[-1])["step"]


def write_probe(data, path):
    """A small task."""
    texts = [" ".join(line.split()[:4]) for line in (data / "train.txt").read_text().splitlines() if line]
    rows = [json.dumps({"text": text, "label": ("odd", "even")[len(text) % 2]}) for text in texts[:40]]
    path.write_text("\n".join(rows) + "\n")


def watch(words, environment, workdir):
    """Run it to its end; returns samples."""
    began, samples = time.monotonic(), []
    environment = environment | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    with (workdir.parent / "output").open("w") as output:
        process = subprocess.Popen(words, cwd=ROOT, env=environment, stdout=output, stderr=output)
        while process.poll() is None:
            samples.append(look(process, workdir / "metrics.jsonl", began))
            time.sleep(SECONDS_BETWEEN)
    assert process.returncode == 0, (workdir.parent / "output").read_text()[-3000:]
    return [sample for sample in samples if sample]


@pytest.mark.all_faults
def test_a_long_run_does_not_grow(data, environment, tmp_path):
    workdir, probe = tmp_path / "run", tmp_path / "probe.jsonl"
    write_probe(data, probe)
    words = command(workdir, data, probe__train=probe, probe__validation=probe, **CHANGES)[3:]
    key = batch_key(batch_of(data, BAD_BATCH, size=BATCH))
    samples = watch(
        [sys.executable, "tests/support/one_bad_batch.py", str(key), *words], environment, workdir
    )
    half = [each for each in samples if STEPS / 2 <= each.step < STEPS]
    steps, kib, descriptors, threads, seconds = map(np.array, zip(*half, strict=True))
    slope = np.polyfit(steps, kib, 1)[0]
    print(
        f"\nsecond half of {STEPS} steps: {slope:.2f} KiB a step, {kib.min() / 1024:.0f} … "
        f"{kib.max() / 1024:.0f} MiB, {descriptors.min()} … {descriptors.max()} descriptors, "
        f"{threads.min()} … {threads.max()} threads, {np.ptp(steps) / np.ptp(seconds):.0f} steps a second"
    )
    for start in range(0, STEPS, STEPS // 10):
        part = [each.kib / 1024 for each in samples if start <= each.step < start + STEPS // 10]
        print(f"from step {start}: " + (f"{min(part):.0f} … {max(part):.0f} MiB" if part else "no sample"))
    kinds = [event["kind"] for event in read_events(workdir)]
    assert kinds.count("rolled_back") == 1, kinds
    assert descriptors.max() < 100 and threads.max() < threads.min() + 40
    assert slope < MOST_KIB
