"""What a run left behind, and a step whose records are known beforehand."""

import types

from electra_jax.training.step import NO_STEP
from electra_jax.training.writers import read_metrics

TIMING = ("tokens_per_second", "model_flops_per_second", "data_wait_seconds")


def checkpoints(workdir):
    """Steps of the whole checkpoints."""
    return sorted(int(path.name) for path in (workdir / "checkpoints").glob("*") if path.name.isdigit())


def comparable(workdir):
    """Rows of the run without what a clock measured."""
    return [{key: value for key, value in row.items() if key not in TIMING} for row in read_metrics(workdir)]


def counting_step(state, ids):
    """A step whose window of two steps holds eight tokens a step and a loss of 3."""
    step = state.step + 1
    count = 1 + state.step % 2
    window = {
        "steps": count,
        "loss": 3.0 * count,
        "tokens": 8 * count,
        "gradient_norm": 0.0,
        "nonfinite_step": NO_STEP,
    }
    return types.SimpleNamespace(step=step, params=step), window
