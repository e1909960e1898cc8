"""Runs whose training meets trouble: a small objective that compiles at once, and rows that poison its loss.

`python -m support.poisoned JSON FLAGS…` is electra_jax.pretrain with this objective. JSON maps keys of rows
(`row_key`) to the factor of the row's loss, such as {"1234": 1e6, "77": Infinity}. With "DIE": [NAME, N] the
process kills itself after its call number N of the function NAME, one of MOMENTS.
"""

import json
import os
import runpy
import signal
import sys

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from data_pipelines.mixture import DatasetSource, make_mixture
from electra_jax.configuration.flags import load_config
from electra_jax.distributed.mesh import make_mesh
from electra_jax.distributed.sharding import axis_context
from electra_jax.objectives.base import Objective, Phase
from electra_jax.runs import inputs, trouble_services
from electra_jax.runs.pretraining import pretrain
from electra_jax.training.checkpointing import Checkpointer
from electra_jax.training.program import make_program
from support import tiny_run

MOMENTS = {"record_rollback": trouble_services, "remove": Checkpointer, "save": Checkpointer}
BATCH = 16
CHANGES = {
    "train.num_steps": 24,
    "train.batch_size": BATCH,
    "checkpoint.every": 5,
    "checkpoint.keep": 20,
    "eval.every": 12,
    "log.every": 4,
    "log.progress": False,
    "optimizer.warmup_steps": 2,
    "optimizer.learning_rate": 0.01,
    "trouble.spike_memory": 4,
    "trouble.rollback_steps": 3,
}


def row_key(ids_BL):
    """A number for each row, which hardly any other has."""
    return ids_BL @ (1 + np.arange(ids_BL.shape[-1], dtype=np.int32))


def make_objective(factors):
    """A linear function of each row's mean embedding should be near 1. Two phases, as in DeBERTaV3: the
    second one sees the first one's update. `factors`: `row_key` → factor of that row's loss."""

    def init(key, sequence_length):
        draw = lambda shape, axes: nn.Partitioned(0.1 * jax.random.normal(key, shape), axes)
        return {
            "table": {"embedding": draw((128, 16), ("vocab", "embedding"))},
            "output": {"kernel": draw((16, 4), ("embed", "mlp")), "bias": draw((4,), ("mlp",))},
        }

    def prepare(key, ids_BL):
        return {"ids": ids_BL, "noise": jax.random.normal(key, (len(ids_BL),))}

    def loss(params, batch, normalizers, dropout_key, carry):
        ids_BL = batch["ids"].astype(jnp.int32)
        y_BK = params["table"]["embedding"][ids_BL].mean(1) @ params["output"]["kernel"]
        y_BK += params["output"]["bias"][None] + 0.1 * batch["noise"][:, None]
        loss_B, key_B = jnp.square(y_BK - 1.0).mean(1), row_key(ids_BL)
        for key, factor in factors.items():
            loss_B = loss_B * jnp.where(key_B == key, factor, 1.0)
        return loss_B.sum() / normalizers["rows"], ({"tokens": jnp.float32(ids_BL.size)}, carry)

    return Objective(
        init,
        prepare,
        lambda batch: {"rows": jnp.float32(len(batch["ids"]))},
        (Phase("first", ("table",), loss), Phase("second", ("output",), loss)),
        lambda batch: (batch["ids"], jnp.ones_like(batch["ids"], jnp.float32)),
    )


def batch_of(data, number, *, size=BATCH, corpus="corpus"):
    """Ids of a batch of the tiny run, from 0."""
    mixture = make_mixture([DatasetSource(str(data / corpus))], seed=0)
    return mixture.read(*mixture.rows_at(number * size, (number + 1) * size))


def poison(data, factors, **options):
    """Number of a batch → factor of its third row's loss, as `make_objective` takes them."""
    third = lambda number: batch_of(data, number, **options)[2].astype(np.int32)
    poisoned = {int(row_key(third(number))): factor for number, factor in factors.items()}
    assert len(poisoned) == len(factors)
    return poisoned


def configuration(data, **changes):
    """The configuration of a run; `changes` by key with "__" for the dots."""
    config = load_config("configs/debug.py")
    changes = {key.replace("__", "."): value for key, value in changes.items()}
    config.update_from_flattened_dict(
        tiny_run.VALUES | CHANGES | {"data.datasets": (str(data / "corpus"),)} | changes
    )
    return config.to_dict()


def run(monkeypatch, config, workdir, factors, mesh_devices=1):
    """Pre-train with the poisoned objective on some of the devices."""
    monkeypatch.setattr(inputs, "make_objective", lambda *_: make_objective(factors))
    devices = jax.devices()[:mesh_devices]
    monkeypatch.setattr(inputs, "make_mesh", lambda sizes: make_mesh(sizes, devices))
    return pretrain(config, workdir)


def arrays(config, workdir, step, mesh_devices=1):
    """All arrays of a checkpoint by name, on the host."""
    mesh = make_mesh({"data": -1, "fsdp": 1, "tensor": 1}, jax.devices()[:mesh_devices])
    full = config | {"data": config["data"] | {"sequence_length": tiny_run.LENGTH}}
    with axis_context(mesh):
        abstract = make_program(full, make_objective({}), mesh).abstract_state
        checkpointer = Checkpointer(str(workdir / "checkpoints"), keep=None)
        state = checkpointer.restore(step, abstract)
        checkpointer.close()
    return {
        jax.tree_util.keystr(path): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(vars(state))
    }


def die_after(name, calls):
    """Let process 0 be killed after its call number `calls` of a function in MOMENTS."""
    owner, left = MOMENTS[name], [calls]
    original = getattr(owner, name)

    def last(*arguments, **options):
        result = original(*arguments, **options)
        left[0] -= 1
        if left[0] == 0 and jax.process_index() == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, last)


def main(factors, *flags):
    """Run the command with `flags`."""
    table = json.loads(factors)
    if moment := table.pop("DIE", None):
        die_after(*moment)
    table = {int(key): factor for key, factor in table.items()}
    inputs.make_objective = lambda *_: make_objective(table)
    sys.argv[1:] = flags
    runpy.run_module("electra_jax.pretrain", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
