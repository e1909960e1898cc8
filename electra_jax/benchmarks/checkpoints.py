"""What the checksums of a checkpoint cost: their share of the time that a save takes in the background."""

import contextlib
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from data_pipelines.progress import waiting
from electra_jax.benchmarks.training_step import Metrics
from electra_jax.distributed.mesh import make_mesh
from electra_jax.distributed.sharding import axis_context
from electra_jax.models.config import make_pretraining_config
from electra_jax.objectives.registry import make_objective
from electra_jax.planning.compiled import SPECIAL
from electra_jax.training.checkpointing import Checkpointer
from electra_jax.training.checksum_item import checksums_of
from electra_jax.training.checksums import compute_checksums, read_checksums
from electra_jax.training.program import make_program
from electra_jax.training.state import TrainState


def checkpoint_figures(config: dict[str, Any], *, rounds: int) -> Metrics:
    """Save the training state of `config` `rounds` times, to the directory for temporary files, and compute
    the checksums of what was saved; medians, without a first save."""
    state = random_state(config)
    saving, blocking, checking = [], [], []
    with tempfile.TemporaryDirectory() as directory:
        with contextlib.closing(Checkpointer(directory, keep=1)) as checkpointer:
            for step in range(1, rounds + 2):
                with waiting(f"save {step} of {rounds + 1}"):
                    began = time.perf_counter()
                    checkpointer.save(step, state, {"config": config})
                    blocking.append(time.perf_counter() - began)
                    checkpointer.wait()
                    saving.append(time.perf_counter() - began)
                checkpoint = checkpointer.place(step)
                names = read_checksums(checksums_of(checkpoint))
                began = time.perf_counter()
                compute_checksums(checkpoint, names)
                checking.append(time.perf_counter() - began)
        size = sum(path.stat().st_size for path in Path(directory).rglob("*") if path.is_file())
    seconds = {"save": saving, "save_in_the_loop": blocking, "checksums": checking}
    medians = {f"{name}_seconds": float(np.median(times[1:])) for name, times in seconds.items()}
    return {
        "state_megabytes": sum(leaf.nbytes for leaf in jax.tree.leaves(state)) / 1e6,
        "checkpoint_megabytes": size / 1e6,
        **medians,
        "checksums_percent_of_save": 100 * medians["checksums_seconds"] / medians["save_seconds"],
    }


def random_state(config: dict[str, Any]) -> TrainState:
    """A training state with random numbers, which do not compress more than those of a real run."""
    objective = make_objective(config, make_pretraining_config(config["model"]), SPECIAL)
    mesh, draw = make_mesh(config["mesh"]), np.random.default_rng(0).standard_normal
    with axis_context(mesh):
        abstract = make_program(config, objective, mesh).abstract_state
        return jax.tree.map(
            lambda leaf: jax.device_put(draw(leaf.shape).astype(leaf.dtype), leaf.sharding), abstract
        )
