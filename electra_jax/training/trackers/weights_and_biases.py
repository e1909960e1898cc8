"""Weights & Biases: configuration and metrics of a run, online or, with WANDB_MODE=offline, in RUN/wandb."""

import json
import os
import sys
from collections.abc import Mapping

import wandb

from electra_jax.training.trackers.interface import TrackedRun

PROJECT = "electra_jax"  # unless WANDB_PROJECT names another
STEP = "train_step"  # W&B's own step cannot go back, as a run does that resumes after a crash
LOCAL = ("offline", "dryrun", "disabled")


class WeightsAndBiases:
    """Project, entity, mode and server come from W&B's environment variables."""

    def __init__(self, run: TrackedRun):
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=run.name,
            id=run.remembered("wandb"),
            resume="allow",
            dir=str(run.directory),
            config=json.loads(json.dumps(run.config)),
            settings=wandb.Settings(console="off", silent=True, disable_git=True),
        )
        self._run.define_metric(STEP, hidden=True)
        self._run.define_metric("*", step_metric=STEP)
        place = self._run.dir if self._run.offline else self._run.url
        print(f"Weights & Biases: {place}", file=sys.stderr)

    @staticmethod
    def check() -> None:
        """Raises ValueError if W&B would ask for a key."""
        if os.environ.get("WANDB_MODE") in LOCAL or wandb.login(prompt=False, verify=False):
            return
        raise ValueError(
            "config.log.trackers: wandb is not logged in. Run `wandb login`, or set WANDB_API_KEY, or "
            "WANDB_MODE=offline to write to the run directory alone (`wandb sync` uploads it later)."
        )

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """See `Tracker`."""
        self._run.log({STEP: step, **scalars})

    def close(self) -> None:
        """See `Tracker`."""
        self._run.finish()
