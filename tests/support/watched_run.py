"""`python watched_run.py FILE FLAGS…`: electra_jax.pretrain on slow storage, which notes in FILE when its
phases begin.

A line for each, "NANOSECONDS NAME", by the clock that all processes of a machine share: whoever sends a
signal can wait for a phase, and knows afterwards which one it has met.
"""

import functools
import os
import runpy
import sys
import time

SLOW_EVERY, SLOW_SECONDS = 4, 0.2  # batches, of which one comes late
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
    """Let what the command will import tell `note` which phase it begins."""
    import jax

    from data_pipelines.mixture import Mixture
    from electra_jax.runs import inputs as run_inputs
    from electra_jax.training import loop

    def noted(phase, function):
        @functools.wraps(function)
        def begin(*arguments, **options):
            note(phase)
            return function(*arguments, **options)

        return begin

    def train(state, step_fn, batches, intervals, *, evaluate, probe, checkpointer, **others):
        batches.batch_at, checkpointer.save = (
            noted("data", batches.batch_at),
            noted("save", checkpointer.save),
        )
        return run_loop(
            state,
            noted("step", step_fn),
            batches,
            intervals,
            evaluate=noted("evaluation", evaluate),
            probe=noted("probe", probe),
            checkpointer=checkpointer,
            **others,
        )

    def read(self, dataset_index, row):
        time.sleep(SLOW_SECONDS * (row[0] % SLOW_EVERY == 0))
        return read_at_once(self, dataset_index, row)

    def compiling(event, _, fun_name="", **others):
        if event == COMPILED and fun_name in ("jit(evaluation_step)", "jit(train_step)"):
            note("compile")

    run_loop, read_at_once = loop.train, Mixture.read
    loop.train, Mixture.read, run_inputs.open_inputs = train, read, noted("opening", run_inputs.open_inputs)
    jax.monitoring.register_scalar_listener(compiling)


if __name__ == "__main__":
    main(*sys.argv[1:])
