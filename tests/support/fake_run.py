"""The training loop with counters in place of a model, and lists in place of checkpoints."""

import types

from electra_jax.distributed.stopping import StopNotice
from electra_jax.training.loop import RunServices, StageComputation, TrainingLoop
from electra_jax.training.step import NO_STEP
from electra_jax.training.writers import MetricWriters


class FakeRun:
    """A run in `workdir`, whose metrics are real. Tests override the methods that they watch."""

    probe = None  # a method in runs that have one
    peak_flops = None
    progress = False  # shown on stderr

    def __init__(self, workdir):
        self.workdir, self.saved, self.evaluated = workdir, [], []

    def go(self, start, intervals, stop=None):
        """Run the loop from `start`, a number of steps or a state; returns the last state."""
        state = (
            types.SimpleNamespace(step=start, params=start, opt_state={}) if isinstance(start, int) else start
        )
        batches = types.SimpleNamespace(seconds_waited=0.0, batch_at=self.batch_at)
        checkpointer = types.SimpleNamespace(save=self.save, wait=self.wait)
        computation = StageComputation(self.train_step, self.evaluate, lambda step: step / 10, 5.0)
        self.stop = StopNotice() if stop is None else stop
        with (
            MetricWriters(
                self.workdir,
                progress=self.progress,
                total_steps=intervals.num_steps,
                start_step=state.step,
            ) as writers,
            self.stop,
        ):
            services = RunServices(writers, checkpointer, {}, self.stop, self.probe, self.peak_flops)
            return TrainingLoop(state, computation, batches, intervals, services).run()

    def batch_at(self, step):
        return {"input_ids": step}

    def train_step(self, state, ids):
        """A step of eight tokens and a loss of 3; a logging window has two steps."""
        step = state.step + 1
        count = 1 + state.step % 2
        window = {
            "steps": count,
            "loss": 3.0 * count,
            "tokens": 8 * count,
            "gradient_norm": 0.0,
            "nonfinite_step": NO_STEP,
        }
        return types.SimpleNamespace(step=step, params=step), window

    def evaluate(self, params):
        self.evaluated.append(params)
        return {"mlm_loss": 1.0}

    def save(self, step, state, description):
        self.saved.append(step)

    def wait(self):
        pass
