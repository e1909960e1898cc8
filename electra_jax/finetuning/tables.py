"""Results as Markdown tables: one row per model, medians, and paired differences to the first model."""

from collections.abc import Sequence

import numpy as np

from electra_jax.finetuning.results import (
    MIN_PAIRS,
    Result,
    Summary,
    models_of,
    paired_interval,
    summarize,
    values_by_model,
)

MIN_INTERVAL_PAIRS = 5  # with fewer, the range is printed instead
MISSING = "–"


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table. The first column has no title and holds the names of the rows."""
    lines = ["| | " + " | ".join(header) + " |", "|---" * (len(header) + 1) + "|"]
    return lines + ["| " + " | ".join(row) + " |" for row in rows]


def results_table(
    results: Sequence[Result], metrics: Sequence[str], *, with_differences: bool = True
) -> list[str]:
    """Lines of a Markdown table: one row per model with the median (lowest–highest) of each metric.

    A model that does not have a metric has "–" in its column, with the number of seeds if it has it from some
    of its seeds.

    Args:
      with_differences: also give, of two or more models, the mean difference of each to the first, over the
        seeds that both have. In parentheses follows the interval of `paired_interval`, or of three or four
        seeds the lowest and highest difference. The column's title states which.

    Raises:
      ValueError: see `values_by_model`.
    """
    models = models_of(results)
    with_differences &= len(models) > 1
    header = ["seeds"]
    rows = [[model, str(sum(result.model == model for result in results))] for model in models]
    for metric in metrics:
        summaries = summarize(results, metric)
        header.append(metric)
        for row, model in zip(rows, models, strict=True):
            row.append(_summary_cell(results, summaries.get(model), model, metric))
        if with_differences:
            values = values_by_model(results, metric)
            header.append(f"{metric}, mean difference to {models[0]}{_interval_title(values, models)}")
            for row, model in zip(rows, models, strict=True):
                row.append(_difference_cell(values, model, models[0]))
    return markdown_table(header, rows)


def _summary_cell(results: Sequence[Result], summary: Summary | None, model: str, metric: str) -> str:
    if summary:
        return f"{summary.median:.3f} ({summary.low:.3f}–{summary.high:.3f})"
    found = [metric in result.metrics for result in results if result.model == model]
    return f"{MISSING} ({sum(found)} of {len(found)} seeds)" if any(found) else MISSING


def _pairs(values: dict[str, dict[int, float]], model: str, first: str) -> list[tuple[float, float]]:
    """Values of `model` and of `first` with the same seed; [] where one of them has none."""
    ours, theirs = values.get(model, {}), values.get(first, {})
    return [(ours[seed], theirs[seed]) for seed in ours if seed in theirs]


def _interval_title(values: dict[str, dict[int, float]], models: Sequence[str]) -> str:
    """What the parentheses in a column of differences hold."""
    counts = {len(_pairs(values, model, models[0])) for model in models[1:]}
    counts = {count for count in counts if count >= MIN_PAIRS}
    if not counts:
        return ""
    if min(counts) >= MIN_INTERVAL_PAIRS:
        return " (95 % t interval)"
    if max(counts) < MIN_INTERVAL_PAIRS:
        return " (lowest–highest difference)"
    return f" (95 % t interval; with fewer than {MIN_INTERVAL_PAIRS} seeds lowest–highest difference)"


def _difference_cell(values: dict[str, dict[int, float]], model: str, first: str) -> str:
    if model == first:
        return ""
    if model not in values or first not in values:
        return MISSING
    pairs = _pairs(values, model, first)
    if len(pairs) < MIN_PAIRS:
        return "too few seeds"
    difference, low, high = paired_interval(*zip(*pairs, strict=True))
    if len(pairs) < MIN_INTERVAL_PAIRS:
        differences = np.subtract(*np.transpose(pairs))
        low, high = differences.min(), differences.max()
    return f"{difference:+z.3f} ({low:+z.3f} to {high:+z.3f})"  # z: no −0.000
