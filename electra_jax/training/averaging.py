"""Averages of parameters: the moving one of a run (config.train.ema_decay), and means of several
checkpoints."""

from typing import Any

import jax


def interpolate(average: Any, params: Any, share: float | jax.Array) -> Any:
    """average + share · (params − average), leaf by leaf.

    With share = 1 − decay after every update it is the exponential moving average Σ (1 − decay) decay^i
    params_(t−i), whose weights sum to 1 when it starts as the parameters: no bias correction, as in
    TensorFlow's ExponentialMovingAverage (Polyak and Juditsky, Acceleration of stochastic approximation by
    averaging, 1992, average all steps alike). With share = 1/k for the k-th of several it is their mean.

    In this form, and not as decay · average + share · params (optax.incremental_update), since those factors,
    rounded, need not sum to 1; here parameters that stand still, or are the same in all, are their own
    average, bit for bit.
    """
    return jax.tree.map(lambda a, p: a + share * (p - a), average, params)
