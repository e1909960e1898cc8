"""The metrics of a run as curves, and curves with few points that look the same.

Shapes: N rows that have a metric, n points of a thinned curve.
"""

import itertools
from array import array
from typing import NamedTuple

import numpy as np

from electra_jax.reports.rows import RowFile, number

MAX_POINTS = 800  # of a thinned curve; a chart is at most about as many pixels wide


class Curve(NamedTuple):
    """One metric over the steps, which increase."""

    steps: np.ndarray  # int64 [N]
    values: np.ndarray  # float64 [N]; NaN where the metric was not finite

    def last(self) -> float | None:
        """The newest value; None if it is not finite."""
        return float(self.values[-1]) if np.isfinite(self.values[-1]) else None


def read_curves(rows: RowFile) -> dict[str, Curve]:
    """Metric, with its prefix → curve. Of rows with the same step the last one counts."""
    columns: dict[str, tuple[array, array]] = {}
    for row in rows:
        step = row.pop("step")
        for name, value in row.items():
            if value is None or isinstance(value, int | float):
                steps, values = columns.setdefault(name, (array("q"), array("d")))
                steps.append(min(step, 2**62))
                values.append(number(value))
    return {name: _ordered(np.array(steps), np.array(values)) for name, (steps, values) in columns.items()}


def _ordered(steps: np.ndarray, values: np.ndarray) -> Curve:
    # From the back, since `unique` takes the first of equal steps.
    steps, places = np.unique(steps[::-1], return_index=True)
    return Curve(steps, values[::-1][places])


def thin(curve: Curve, max_points: int = MAX_POINTS) -> Curve:
    """At most `max_points` points of a curve: of each of equally many rows the smallest and the largest
    value, so that every peak stays, the first and the last point, and gaps of values that are not finite."""
    count = len(curve.steps)
    if count <= max_points:
        return curve
    edges = np.linspace(1, count - 1, (max_points - 2) // 3 + 1).astype(int)
    kept = {0, count - 1}
    for start, stop in itertools.pairwise(edges):
        part = curve.values[start:stop]
        is_finite = np.isfinite(part)
        if is_finite.any():
            kept |= {start + int(np.nanargmin(part)), start + int(np.nanargmax(part))}
        if not is_finite.all():
            kept.add(start + int(np.argmin(is_finite)))
    places = np.array(sorted(kept))
    return Curve(curve.steps[places], curve.values[places])


def evenly(items: list, count: int) -> list:
    """At most `count` of the items, evenly spread, with the first and the last."""
    if len(items) <= count:
        return list(items)
    places = np.linspace(0, len(items) - 1, max(count, 1)).round().astype(int)
    return [items[place] for place in (places if count > 1 else [len(items) - 1])]
