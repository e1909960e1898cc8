"""Results of several models and seeds, for the tests of their statistics, tables and figures."""

from electra_jax.finetuning.results import Result

VALUES = {"base": [0.70, 0.74, 0.71, 0.78], "ours": [0.75, 0.76, 0.71, 0.79]}


def results_of(values, metric="accuracy"):
    """Results from model → values of the seeds 0, 1, …."""
    return [
        Result(model, seed, {metric: value})
        for model, runs in values.items()
        for seed, value in enumerate(runs)
    ]
