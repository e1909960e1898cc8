"""An evaluation: a pass over held-out rows, from metric sums of each batch to metrics."""

from collections.abc import Callable
from typing import Any, Protocol

import jax
import numpy as np

from electra_jax.training.metrics import Metrics, summarize


class EvaluationBatches(Protocol):
    """Finite, ordered batches of a fixed shape; the last is filled with padding, which is never scored."""

    def __len__(self) -> int: ...

    def batch_at(self, index: int) -> dict[str, jax.Array]: ...


def evaluate(
    evaluation_step: Callable[..., Any],
    params: Any,
    batches: EvaluationBatches,
    check: Callable[[], None] = lambda: None,
    unigram: np.ndarray | None = None,
) -> Metrics:
    """Metrics of all batches from their sums, which are added on the host in float64.

    `check` is called before every batch and may raise; `unigram` is for `summarize`.
    """
    total: Any = None
    pending = None
    for index in range(len(batches)):
        check()
        dispatched = evaluation_step(params, batches.batch_at(index)["input_ids"], index)
        if pending is not None:  # fetched one batch late, so that the devices always have work
            total = _add(total, pending)
        pending = dispatched
    return summarize(_add(total, pending), unigram)


def _add(total: Any, sums: Any) -> Any:
    sums = {key: np.asarray(value, np.float64) for key, value in jax.device_get(sums).items()}
    return sums if total is None else {key: total[key] + sums[key] for key in sums}
