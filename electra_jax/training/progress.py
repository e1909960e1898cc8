"""Progress of a run on stderr: which of its metrics are shown, and how."""

from collections.abc import Mapping
from typing import TextIO

from data_pipelines.progress import make_progress

# Metric → the name that is shown, and its format. Metrics that are not here are not shown.
TRAINING = {
    "loss": ("loss", "{:.3f}"),
    "rtd_auc": ("auc", "{:.3f}"),
    "tokens_per_second": ("tokens/s", "{:,.0f}"),
    "model_flops_utilization": ("MFU", "{:.1%}"),
}
EVALUATION = {"eval/mlm_loss": ("mlm_loss", "{:.3f}"), "eval/rtd_auc": ("auc", "{:.3f}")}
PROBE = "probe/"  # all metrics with this prefix are shown
# The share of the time that waits for batches is shown from this on. The alarm `data_wait` has the remedies.
LONG_WAIT = 0.05


class RunProgress:
    """Shows the rows of a run as they come."""

    def __init__(self, stream: TextIO, start_step: int, total_steps: int):
        self._progress = make_progress(total_steps, start=start_step, stream=stream)

    def show(self, step: int, scalars: Mapping[str, float], *, always: bool = False) -> None:
        """Show a row of training, of an evaluation or of a probe; `always` as in `Progress.update`."""
        name, measured = _describe_measurement(scalars)
        if measured:
            self._progress.note(step, name, measured)
        else:
            words = _describe(scalars, TRAINING)
            if (share := scalars.get("data_wait_share", 0.0)) >= LONG_WAIT:
                words["waits for data"] = f"{share:.0%}"
            self._progress.update(step, words, always=always)

    def advance(self, step: int) -> None:
        """Show that this step is done, or nearly."""
        self._progress.advance(step)

    def close(self) -> None:
        """Leave what is shown."""
        self._progress.close()


def _describe(scalars: Mapping[str, float], shown: Mapping[str, tuple[str, str]]) -> dict[str, str]:
    return {label: form.format(scalars[name]) for name, (label, form) in shown.items() if name in scalars}


def _describe_measurement(scalars: Mapping[str, float]) -> tuple[str, dict[str, str]]:
    """Whether the row is of an evaluation or a probe, and the metrics to show; none of a training row."""
    evaluation = _describe(scalars, EVALUATION)
    if evaluation:
        return "evaluation", evaluation
    probes = {name: value for name, value in scalars.items() if name.startswith(PROBE)}
    return "probe", {name.removeprefix(PROBE): f"{value:.3f}" for name, value in probes.items()}
