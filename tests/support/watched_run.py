"""`python -m support.watched_run FILE FLAGS…`: electra_jax.pretrain on slow storage, which also writes to
FILE when each of its phases begins.

It writes lines "NANOSECONDS NAME", by the clock that all processes of a machine share. So a test can wait
for a phase before it sends a signal, and knows afterwards which phase the signal met.
"""

import functools
import os
import runpy
import sys
import time

SLOW_EVERY, SLOW_SECONDS = 4, 0.2  # one batch in SLOW_EVERY comes late
COMPILED = "/jax/core/compile/backend_compile_duration"


def main(path, *flags):
    """Run the command with `flags`."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def note(phase):
        os.write(file, f"{time.monotonic_ns()} {phase}\n".encode())

    note("imports")
    watch(note)
    sys.argv[1:] = flags
    runpy.run_module("electra_jax.pretrain", run_name="__main__", alter_sys=True)


def watch(note):
    """Let the functions that the command will call tell `note` when they begin."""
    import jax

    from data_pipelines.mixture import Mixture
    from electra_jax.runs import pretraining

    def noted(phase, function):
        @functools.wraps(function)
        def begin(*arguments, **options):
            note(phase)
            return function(*arguments, **options)

        return begin

    def make_loop(state, computation, batches, intervals, services):
        batches.batch_at = noted("data", batches.batch_at)
        services.checkpointer.save = noted("save", services.checkpointer.save)
        computation = computation._replace(
            train_step=noted("step", computation.train_step),
            evaluate=noted("evaluation", computation.evaluate),
        )
        services = services._replace(probe=noted("probe", services.probe))
        return training_loop(state, computation, batches, intervals, services)

    def read(self, dataset_index, row):
        time.sleep(SLOW_SECONDS * (row[0] % SLOW_EVERY == 0))
        return read_at_once(self, dataset_index, row)

    def compiling(event, _, fun_name="", **others):
        if event == COMPILED and fun_name in ("jit(evaluation_step)", "jit(train_step)"):
            note("compile")

    training_loop, read_at_once = pretraining.TrainingLoop, Mixture.read
    pretraining.TrainingLoop, Mixture.read = make_loop, read
    pretraining.open_inputs = noted("opening", pretraining.open_inputs)
    jax.monitoring.register_scalar_listener(compiling)


if __name__ == "__main__":
    main(*sys.argv[1:])
