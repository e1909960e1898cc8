"""Steps of training with a tiny model, and the whole configuration that they follow."""

import jax

from configs import debug
from electra_jax.distributed.sharding import axis_context, batch_sharding
from electra_jax.training.program import make_program
from support.tiny import LENGTH, electra, model_section, objective_section, rows


def config(**changes):
    """A whole configuration for the tiny model: 8 rows a batch, window of 2 steps."""
    full = debug.get_config().to_dict()
    full["model"], full["objective"] = (
        model_section(hidden_dropout=0.1, attention_dropout=0.1),
        objective_section(),
    )
    full["data"]["sequence_length"] = LENGTH
    full["optimizer"] |= {"warmup_steps": 2, "learning_rate": 1e-3}
    full["train"] |= {"num_steps": 6, "batch_size": 8}
    full["log"]["every"] = 2
    for section, values in changes.items():
        full[section] |= values
    return full


def run_steps(full, mesh, steps, state=None, start=0, make=electra):
    """Train on rows(seed=step); returns the state and the metrics of each step's window."""
    with axis_context(mesh):
        program = make_program(full, make(full["model"], **full["objective"]), mesh)
        state = program.init() if state is None else state
        windows = []
        for step in range(start, start + steps):
            batch = jax.device_put(rows(8, seed=step), batch_sharding(mesh))
            state, window = program.train_step(state, batch)
            windows.append(jax.device_get(window))
    return program, state, windows
