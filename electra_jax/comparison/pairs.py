"""Which of two sentences the runs of a suite prefer: `compare --minimal_pairs=…`."""

from collections.abc import Sequence
from pathlib import Path

from electra_jax.finetuning.results import Result
from electra_jax.minimal_pairs.evaluation import Options, score_models
from electra_jax.runs.only_writer import Check

PAIRS = "minimal_pairs"  # of the workdir: what `evaluate --minimal_pairs` writes


def add_pair_metrics(
    results: Sequence[Result], places: Sequence[str], max_pairs: int, workdir: Path, check: Check
) -> tuple[list[Result], list[str]]:
    """The results of a suite's runs with their accuracies on minimal pairs, "pairs SCORE", and notes on them.

    Scores are kept in minimal_pairs/ of `workdir`; those of the same weights and sentences are not computed
    again.

    Args:
      places: files or directories of pairs; (): no pairs, and no metrics.
      max_pairs: of each phenomenon; 0: all.

    Raises:
      FileNotFoundError, ValueError, OSError, FloatingPointError: see `score_models`.
    """
    if not places or not results:
        return list(results), []
    models = [f"{workdir}/{result.model}/seed_{result.seed}" for result in results]
    scored, notes = score_models(Options(places, models, workdir / PAIRS, max_pairs, ""), check)
    metrics: dict[str, dict[str, float]] = {model: {} for model in models}
    for one in scored:
        metrics[one.model.name][f"pairs {one.rule}"] = one.summary.total.accuracy
    extended = [
        result._replace(metrics=result.metrics | metrics[model])
        for result, model in zip(results, models, strict=True)
    ]
    return extended, notes
