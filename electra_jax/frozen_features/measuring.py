"""What one model's features are worth on one task."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from electra_jax.finetuning.pooling import POOLINGS
from electra_jax.frozen_features.classifiers import LOGISTIC, fit, labelled_curve, num_fitted
from electra_jax.frozen_features.outside import OutsideDetector, aurocs
from electra_jax.frozen_features.store import Features
from electra_jax.frozen_features.texts import FrozenTask

LAST = -1  # place of the last layer's state

Noise = tuple[str, float]  # kind and rate


class FeaturesOfTask(NamedTuple):
    """The features of one model that concern one task."""

    train: Features
    held_out: Features
    outside: Mapping[str, Features]  # name of the texts → features
    noisy: Mapping[Noise, Features]


def work_of(task: FrozenTask, sizes: Sequence[int], num_seeds: int, num_layers: int) -> int:
    """Examples in all fits of `measure`. `num_layers`: whose features are looked at besides the last."""
    labels_N = task.train_labels
    return len(POOLINGS) * (num_fitted(sizes, labels_N, num_seeds) + num_layers * len(labels_N))


def measure(
    task: FrozenTask,
    features: FeaturesOfTask,
    sizes: Sequence[int],
    num_seeds: int,
    tell: Callable[[int], object],
) -> dict[str, Any]:
    """The results of a model on a task, for JSON.

    Args:
      sizes: numbers of labelled examples, besides all of them.
      num_seeds: subsets of each.
      tell: called with the number of examples of each fit.

    Returns:
      labelled: classifiers × numbers of labelled examples, with the values of each subset and their median.
      outside: AUROC of each score for each set of other texts.
      noise: the probe on noisy held-out texts; it was trained on the clean ones.
      layers: the probe on each layer, if the features have them; 0 is the input of the first layer.
    """
    found: dict[str, Any] = {"labelled": [], "outside": [], "noise": [], "layers": []}
    labels_N = task.train_labels
    for pooling in POOLINGS:
        train_SND, held_out_SND = features.train[pooling].astype(np.float64), features.held_out[pooling]
        score = lambda classifier, held_out_SND=held_out_SND: task.score(
            classifier.predict(held_out_SND[LAST])
        )
        points, probe = labelled_curve((train_SND[LAST], labels_N), score, sizes, num_seeds, tell)
        of_pooling = {"pooling": pooling}
        found["labelled"] += [
            of_pooling | point._asdict() | {"median": float(np.median(point.values))} for point in points
        ]
        detector = OutsideDetector(probe, train_SND[LAST], labels_N)
        inside = detector.scores(held_out_SND[LAST])
        for name, outside in features.outside.items():
            areas = aurocs(inside, detector.scores(outside[pooling][LAST]))
            found["outside"].append(of_pooling | {"texts": name, "auroc": areas})
        clean = score(probe)
        found["noise"].append(of_pooling | {"kind": "", "rate": 0.0, "value": clean})
        for (kind, rate), noisy in features.noisy.items():
            value = task.score(probe.predict(noisy[pooling][LAST]))
            found["noise"].append(of_pooling | {"kind": kind, "rate": rate, "value": value})
        if len(train_SND) > 1:
            values = _by_layer(task, train_SND, held_out_SND, tell)
            found["layers"].append(of_pooling | {"values": [*values, clean]})
    return found


def _by_layer(
    task: FrozenTask, train_SND: np.ndarray, held_out_SND: np.ndarray, tell: Callable[[int], object]
) -> list[float]:
    """The probe's values on all states but the last."""
    values = []
    for train_ND, held_out_ND in zip(train_SND[:LAST], held_out_SND[:LAST], strict=True):
        probe = fit(LOGISTIC, train_ND, task.train_labels)
        values.append(task.score(probe.predict(held_out_ND)))
        tell(len(train_ND))
    return values
