"""TensorBoard: event files in RUN/tensorboard."""

from collections.abc import Mapping

from tensorboardX import SummaryWriter

from electra_jax.training.trackers.interface import TrackedRun


class TensorBoard:
    """Scalars for `tensorboard --logdir=RUN`."""

    def __init__(self, run: TrackedRun):
        # Viewers hide the lost steps of a run that resumes.
        self._writer = SummaryWriter(str(run.directory / "tensorboard"), purge_step=run.start_step + 1)

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """See `Tracker`."""
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """See `Tracker`."""
        self._writer.close()
