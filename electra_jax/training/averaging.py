"""Averages of parameters: the moving average of a run (config.train.ema_decay), and means of several
checkpoints."""

from typing import Any

import jax


def interpolate(average: Any, params: Any, weight: float | jax.Array) -> Any:
    """average + weight · (params − average), leaf by leaf.

    Called after every update with weight = 1 − decay, it yields the exponential moving average
    Σ (1 − decay) decay^i params_(t−i). Its weights sum to 1 if it starts as the parameters, so there is no
    bias correction, as in TensorFlow's ExponentialMovingAverage. (Polyak and Juditsky, Acceleration of
    stochastic approximation by averaging, 1992, weight all steps equally.) Called with weight = 1/k for the
    k-th of several trees, it yields their mean.

    The form decay · average + weight · params (optax.incremental_update) is not used, since its rounded
    factors may not sum to 1. Here the average of equal parameters equals them, bit for bit.
    """
    return jax.tree.map(lambda a, p: a + weight * (p - a), average, params)
