"""Values of a configuration and flags that must be refused before anything is written."""

from support.fault_runs import flags
from support.faults import DIFFERENT, LOST, REFUSED, Fault, clear

SAMPLE = 4
VALUES = {
    "optimizer.learning_rate": (0, -1, "nan", "inf", "1e300", "fast"),
    "optimizer.discriminator_learning_rate": (-1, "nan"),
    "optimizer.beta2": (1, 2, -0.5),
    "optimizer.epsilon": (0, -1e-6),
    "optimizer.clip_norm": (0, -1),
    "optimizer.warmup_steps": (-1, 2**40),
    "optimizer.weight_decay": (-1, "inf"),
    "objective.mask_prob": (0, 2, "nan"),
    "objective.mask_token_prob": (2, -1),
    "objective.temperature": (0, -1),
    "objective.gen_weight": (-1, "nan"),
    "objective.disc_weight": (-1, "inf"),
    "objective.name": ("unknown",),
    "train.batch_size": (0, -8, 7.5, 2**40),
    "train.num_steps": (0, -1, 2**64),
    "train.seed": (-1, 2**64),
    "train.num_microbatches": (0, 3, -1),
    "model.hidden_dropout": (1, -0.1, "nan"),
    "model.discriminator.hidden_size": (0, -1, 10**9),
    "model.discriminator.num_layers": (0, -2),
    "model.vocab_size": (1, 64, 10**12),
    "mesh.data": (0, -2, 3),
    "eval.every": (-1,),
    "checkpoint.every": (-1,),
    "checkpoint.keep": (0, -1),
    "log.every": (0, -1),
    "data.seed": (-1, 2**80),
    "data.sequence_length": (-1, 64),
    "trouble.on_spike": ("explode",),
    "no.such.key": (1,),
    "train.num_step": (10,),
}
# Names of datasets, and what the error tells of them.
DATASETS = {"": "datasets", "/nonexistent": "/nonexistent"}


def wrong(key, value, names=""):
    """Give a value."""
    return Fault(
        f"{key}={value}",
        allowed=(REFUSED,),
        names=names or key.rpartition(".")[2],
        flags=(f"--config.{key}={value}",),
    )


FAULTS = [wrong(key, value) for key, values in VALUES.items() for value in values]
FAULTS += [wrong("data.datasets", value, names) for value, names in DATASETS.items()]


def test_a_wrong_value_is_refused_before_anything_is_written(fault, data, forks, record, tmp_path):
    workdir = tmp_path / "run"
    run = forks.run("electra_jax.pretrain", *flags(workdir, data), *fault.flags)
    outcome = DIFFERENT if run.code == 0 else clear(run.code, run.text, fault.names)
    if outcome == REFUSED and workdir.exists():
        outcome = LOST
    record(fault.name, outcome)
    assert outcome in fault.allowed, (run.code, run.text[-3000:])
