"""The debug recipe for 300 steps, beside the losses that a CPU gave (recorded_losses.json).

How closely they should agree follows from what rounding does to this run. Two devices that multiply float32
at full precision add up in another order, which changes a number by about 1e-7 of its value. TOLERANCES was
measured on the recording CPU: five runs whose initial parameters were changed at random by a relative 1e-6 or
1e-7, and one on eight simulated devices without compiler optimisation, differ from the recorded one by at
most the number in its comment. Three times that or more is allowed. The generator's loss hardly changes while
the learning rate warms up. The detection loss jumps by some 5e-4 when rounding changes one of the 288 tokens
that are sampled for a batch. Later, runs with other tokens drift apart.

Products at lower precision show in the generator's loss: with parameters changed by a relative 3e-4 it
differs by 5e-6 within 5 steps and by 2e-5 within 20, in bfloat16 by 2e-5 and 4e-5.

`python -m electra_jax.benchmarks.accelerator.learning DIRECTORY` records the losses again, on the CPU.
"""

import argparse
import hashlib
import json
import math
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from data_pipelines.command_errors import errors_on_the_terminal
from data_pipelines.dataset_info import load_dataset_info
from data_pipelines.json_files import read_json
from electra_jax.benchmarks.accelerator.corpus import build_rows
from electra_jax.benchmarks.accelerator.device import versions
from electra_jax.benchmarks.accelerator.parts import Job
from electra_jax.configuration.recipes import load_config, own_recipe
from electra_jax.configuration.resolve import resolve
from electra_jax.configuration.sizes import with_assumed_sizes
from electra_jax.distributed.processor import processor_name
from electra_jax.runs.inputs import open_inputs
from electra_jax.runs.pretraining import pretrain
from electra_jax.training.writers import read_metrics

RECIPE = "configs/debug.py"
RECORDED = Path(__file__).parent / "recorded_losses.json"
NUM_STEPS, NUM_SINGLE, WINDOW = 300, 20, 20
LENGTH = 64
HASHED_STEPS = (0, 150, 299)
# Loss → (last step, allowed relative difference). Beyond NUM_SINGLE, of means over WINDOW steps.
TOLERANCES = {
    "mlm_loss": ((5, 3e-6), (20, 1e-5), (100, 1e-3), (300, 1e-2)),  # seen: 7e-7, 3e-6, 1e-4, 2e-3
    "rtd_loss": ((5, 3e-3), (20, 3e-3), (100, 5e-3), (300, 5e-2)),  # seen: 9e-4, 6e-4, 6e-4, 2e-2
    "loss": ((5, 1e-3), (20, 1e-3), (100, 2e-3), (300, 2e-2)),  # seen: 2e-4, 1e-4, 2e-4, 4e-3
}
RUN = "debug_run"


def run_part(job: Job) -> None:
    """Train, and compare with the recorded losses."""
    rows = Path(job.data) if job.data else build_rows(job.work / "text", LENGTH)
    config = debug_config(str(rows))
    workdir = job.work / RUN
    shutil.rmtree(workdir, ignore_errors=True)
    began = time.perf_counter()
    digest = rows_digest(config, workdir)
    summary = pretrain(config, workdir)
    job.recorder.add(train_seconds=time.perf_counter() - began, rows=digest)
    losses = read_losses(workdir)
    recorded = read_json(RECORDED, dict)
    job.recorder.add(losses=losses, recorded=recorded["losses"], made=recorded["made"])
    job.recorder.add(heldout=summary)
    check_learning(job, losses, summary)
    if digest == recorded["rows"]:
        check_losses(job, losses, recorded["losses"])
    elif job.data:
        job.recorder.remark("--data holds other rows than those that the losses were recorded with.")
    else:
        job.recorder.check(
            "the rows of the batches are those of the recorded losses",
            False,
            got=f"{digest} with {versions()}",
            expected=f"{recorded['rows']} with {recorded['made']['versions']}",
        )


def debug_config(rows: str) -> dict[str, Any]:
    """The debug recipe on a dataset, for NUM_STEPS steps. As for the recorded losses, the vocabulary is the
    recipe's, unless that of the dataset is larger."""
    config, info = with_assumed_sizes(load_config(own_recipe(RECIPE)).to_dict()), load_dataset_info(rows)
    config["model"]["vocab_size"] = max(config["model"]["vocab_size"], info.vocab_size)
    config["data"] |= {"datasets": (rows,), "sequence_length": info.sequence_length}
    config["train"] |= {"num_steps": NUM_STEPS}
    config["log"] |= {"every": 1, "progress": False}
    config["eval"] |= {"every": NUM_STEPS}
    config["checkpoint"] |= {"every": NUM_STEPS}
    return config


def rows_digest(config: dict[str, Any], workdir: Path) -> str:
    """Hash of the rows of some steps, so that another order of the data is not taken for a rounding error."""
    mixture = open_inputs(resolve(config), workdir).stages[0].mixture
    size = config["train"]["batch_size"]
    digest = hashlib.sha256()
    for step in HASHED_STEPS:
        rows = mixture.read(*mixture.rows_at(step * size, (step + 1) * size))
        digest.update(rows.astype("<i4").tobytes())
    return digest.hexdigest()[:16]


def read_losses(workdir: Path) -> dict[str, dict[str, float]]:
    """Loss name → step, or last step of a window of WINDOW steps ("41-60") → loss."""
    rows = {row["step"]: row for row in read_metrics(workdir) if "loss" in row}
    losses: dict[str, dict[str, float]] = {}
    for name in TOLERANCES:
        single = {str(step): rows[step][name] for step in sorted(rows) if step <= NUM_SINGLE}
        means = {}
        for first in range(NUM_SINGLE + 1, max(rows) + 1, WINDOW):
            window = [rows[step][name] for step in range(first, first + WINDOW) if step in rows]
            means[f"{first}-{first + len(window) - 1}"] = sum(window) / len(window)
        losses[name] = single | means
    return losses


def last_step_of(name: str, place: str) -> int:
    """The last step of the row of TOLERANCES that a step or window of `read_losses` falls into."""
    last = int(place.rpartition("-")[2])
    return next(end for end, _ in TOLERANCES[name] if last <= end)


def check_learning(job: Job, losses: dict[str, dict[str, float]], summary: dict[str, Any]) -> None:
    """Whether all losses are finite, and the held-out loss is below that of counting tokens."""
    values = [value for by_step in losses.values() for value in by_step.values()]
    is_finite = all(value is not None and math.isfinite(value) for value in values)
    job.recorder.check("losses are finite", is_finite, got=is_finite, expected=True)
    got, unigram = summary["heldout_mlm_loss"], summary["heldout_unigram_cross_entropy"]
    job.recorder.check(
        "held-out loss of the generator is below that of counting tokens",
        got < unigram,
        got=f"{got:.4f}",
        expected=f"below {unigram:.4f}",
    )


def check_losses(job: Job, got: dict[str, dict[str, float]], recorded: dict[str, dict[str, float]]) -> None:
    """One check for each loss and row of TOLERANCES, of the step that differs most for its tolerance."""
    largest: dict[str, float] = {}
    for name, by_step in recorded.items():
        for end, tolerance in TOLERANCES[name]:
            places = [place for place in by_step if last_step_of(name, place) == end]
            gaps = {place: abs(got[name][place] / by_step[place] - 1) for place in places}
            worst = max(gaps, key=gaps.get)
            largest[f"{name} to step {end}"] = gaps[worst]
            job.recorder.check(
                f"{name} up to step {end} (largest difference: step {worst})",
                gaps[worst] <= tolerance,
                got=f"{got[name][worst]:.6f}, a relative {gaps[worst]:.1e}",
                expected=f"{by_step[worst]:.6f} within {tolerance:.0e}",
            )
    job.recorder.add(largest_differences=largest)


def record(directory: Path) -> None:
    """Write recorded_losses.json from a run on this machine's CPU below `directory`."""
    jax.config.update("jax_platforms", "cpu")
    config = debug_config(str(build_rows(directory / "text", LENGTH)))
    workdir = directory / RUN
    shutil.rmtree(workdir, ignore_errors=True)
    digest = rows_digest(config, workdir)
    pretrain(config, workdir)
    losses = {
        name: {place: float(f"{value:.7g}") for place, value in by_step.items()}
        for name, by_step in read_losses(workdir).items()
    }
    made = {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "processor": processor_name(),
        "versions": versions(),
    }
    value = {"made": made, "rows": digest, "losses": losses}
    RECORDED.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


@errors_on_the_terminal()
def main(argv: Sequence[str] | None = None) -> None:
    """Command line of this module."""
    parser = argparse.ArgumentParser(description="Record the losses again, on this machine's CPU.")
    parser.add_argument("directory", type=Path, help="of the text and the run")
    record(parser.parse_args(argv).directory)


if __name__ == "__main__":
    main()
