"""`python one_bad_batch.py KEY FLAGS…`: electra_jax.pretrain with a loss that is not finite for the batch
whose `batch_key` is KEY."""

import runpy
import sys

import jax.numpy as jnp
import numpy as np

from electra_jax.objectives import registry
from electra_jax.objectives.base import Objective
from electra_jax.runs import inputs
from support.poisoned import row_key


def batch_key(ids_BL):
    """A number for each batch, which hardly any other has."""
    return row_key(ids_BL.astype(np.int32)).sum()


def with_bad_batch(objective: Objective, key: int) -> Objective:
    """The objective, with phases whose losses are infinite for the batch `key`."""

    def prepare(noise_key, ids_BL):
        is_bad = batch_key(ids_BL) == key
        return {
            "batch": objective.prepare(noise_key, ids_BL),
            "factor": jnp.broadcast_to(jnp.where(is_bad, jnp.inf, 1.0), ids_BL.shape[:1]),
        }

    def with_factor(loss):
        def scaled(params, batch, *others):
            value, more = loss(params, batch["batch"], *others)
            return value * batch["factor"].max(), more

        return scaled

    return objective._replace(
        prepare=prepare,
        normalizers=lambda batch: objective.normalizers(batch["batch"]),
        phases=tuple(phase._replace(loss=with_factor(phase.loss)) for phase in objective.phases),
        targets=lambda batch: objective.targets(batch["batch"]),
    )


def main(key, *flags):
    """Run the command with `flags`."""
    inputs.make_objective = lambda *about: with_bad_batch(registry.make_objective(*about), int(key))
    sys.argv[1:] = flags
    runpy.run_module("electra_jax.pretrain", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
