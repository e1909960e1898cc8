"""A long run with evaluations, checkpoints and probes: memory, descriptors and threads do not grow.

20,000 steps with --all_faults, of which `pytest -s` prints the figures; 300 otherwise.
"""

import json
import os
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

from support.paths import ROOT
from support.tiny_run import command

STEPS, SHORT = 20_000, 300
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
    except (OSError, StopIteration, ValueError):
        return None


def last_step(metrics):
    """Of the last whole row."""
    with metrics.open("rb") as file:
        file.seek(max(0, metrics.stat().st_size - 4_000))
        return json.loads(file.read().splitlines()[-1])["step"]


def test_a_long_run_does_not_grow(data, environment, is_whole, tmp_path):
    num_steps = STEPS if is_whole else SHORT
    texts = [" ".join(line.split()[:4]) for line in (data / "train.txt").read_text().splitlines() if line]
    rows = [json.dumps({"text": text, "label": ("odd", "even")[len(text) % 2]}) for text in texts[:40]]
    (tmp_path / "probe.jsonl").write_text("\n".join(rows) + "\n")
    probe = {"text": "text", "label": "label", "every": num_steps // 5, "num_epochs": 1}
    probe |= {split: tmp_path / "probe.jsonl" for split in ("train", "validation")}
    every = dict.fromkeys(("eval__every", "checkpoint__every"), num_steps // 50)
    words = command(
        tmp_path / "run",
        data,
        train__num_steps=num_steps,
        train__batch_size=8,
        log__every=num_steps // 100,
        **every,
        **{f"probe__{key}": value for key, value in probe.items()},
    )
    began, samples = time.monotonic(), []
    with (tmp_path / "output").open("w") as output:
        process = subprocess.Popen(words, cwd=ROOT, env=environment, stdout=output, stderr=output)
        while process.poll() is None:
            samples.append(look(process, tmp_path / "run" / "metrics.jsonl", began))
            time.sleep(SECONDS_BETWEEN)
    assert process.returncode == 0, (tmp_path / "output").read_text()[-3000:]
    half = [each for each in samples if each and num_steps / 2 <= each.step < num_steps]
    assert half, samples
    steps, kib, descriptors, threads, seconds = map(np.array, zip(*half, strict=True))
    slope = np.polyfit(steps, kib, 1)[0] if np.ptp(steps) else 0.0
    speed = np.ptp(steps) / max(np.ptp(seconds), SECONDS_BETWEEN)
    print(
        f"\nsecond half of {num_steps} steps: {slope:.2f} KiB a step, {kib.min() / 1024:.0f} … "
        f"{kib.max() / 1024:.0f} MiB, {descriptors.min()} … {descriptors.max()} descriptors, "
        f"{threads.min()} … {threads.max()} threads, {speed:.0f} steps a second"
    )
    assert descriptors.max() < 100 and threads.max() < threads.min() + 40
    if is_whole:
        assert slope < MOST_KIB
