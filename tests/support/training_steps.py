"""A few training steps of a tiny model, and the complete configuration for them."""

import functools
import json

import jax
import optax

from configs import debug
from electra_jax.configuration.sizes import with_assumed_sizes
from electra_jax.distributed.sharding import axis_context, batch_sharding
from electra_jax.training import program
from support.tiny import LENGTH, electra, model_section, objective_section, rows


def config(**changes):
    """A complete configuration for the tiny model: batches of 8 rows, windows of 2 steps."""
    full = with_assumed_sizes(debug.get_config().to_dict())
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


@functools.cache
def plain_descent(rate=0.05):
    """What `make_optimizers` in electra_jax.training.program can be replaced by where the optimizer does not
    matter. It compiles at once, Adam takes a third of a step's time; an update reads the gradients alone."""

    def make_optimizers(section, num_steps, params, phases, *arguments, **more):
        return {phase.name: optax.sgd(rate) for phase in phases}, lambda step: rate

    return make_optimizers


MOST_PROGRAMS = 4
_programs = {}  # (configuration, mesh, maker, maker of optimizers) → program


def program_of(full, mesh, make):
    """The program of a configuration, inside the axis context; traced once for the steps that several runs
    make."""
    name = json.dumps(full, sort_keys=True), mesh, make, program.make_optimizers
    if name not in _programs:
        if len(_programs) == MOST_PROGRAMS:
            del _programs[next(iter(_programs))]
        _programs[name] = program.make_program(full, make(full["model"], **full["objective"]), mesh)
    return _programs[name]


def run_steps(full, mesh, steps, state=None, start=0, make=electra):
    """Train on rows(seed=step); returns program, state and the metric sums of the window after each step."""
    with axis_context(mesh):
        functions = program_of(full, mesh, make)
        state = functions.init() if state is None else state
        windows = []
        for step in range(start, start + steps):
            batch = rows(8, seed=step, vocab_size=full["model"]["vocab_size"])
            batch = jax.device_put(batch, batch_sharding(mesh))
            state, window = functions.train_step(state, batch)
            windows.append(jax.device_get(window))
    return functions, state, windows
