"""The checkpoints and metrics that a run left in its directory."""

from electra_jax.training.writers import read_metrics

TIMING = ("tokens_per_second", "model_flops_per_second", "data_wait_seconds", "data_wait_share")


def checkpoints(workdir):
    """Steps of the whole checkpoints."""
    return sorted(int(path.name) for path in (workdir / "checkpoints").glob("*") if path.name.isdigit())


def comparable(workdir):
    """Rows of metrics without those that depend on a clock."""
    return [{key: value for key, value in row.items() if key not in TIMING} for row in read_metrics(workdir)]
