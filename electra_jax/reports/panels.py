"""Which metrics a report draws, in which order, and what they are called."""

from collections.abc import Collection
from typing import NamedTuple

EVALUATION, PROBE = "eval/", "probe/"
# Metric of training rows (held-out rows have it under eval/) → title with its unit.
MAIN = {
    "mlm_loss": "Masked language modelling loss (nats)",
    "rtd_auc": "Replaced token detection: AUC",
    "rtd_loss": "Replaced token detection: loss",
    "rtd_balanced_accuracy": "Replaced token detection: balanced accuracy",
    "loss": "Loss that is minimised",
    "replaced_rate": "Share of tokens that were replaced",
    "mlm_accuracy": "Generator: accuracy at masked tokens",
    "generator_entropy": "Generator: entropy of its predictions (nats)",
    "std_auc": "Swapped token detection: AUC",
    "itd_auc": "Inserted token detection: AUC",
    "learning_rate": "Learning rate",
    "gradient_norm": "Norm of the gradient, before clipping",
    "tokens_per_second": "Tokens a second",
    "data_wait_share": "Share of the time that waits for data",
    "data_wait_seconds": "Seconds of waiting for data since the last row",
}
COUNTING = "eval/unigram_cross_entropy"  # loss of a model that only counts tokens, drawn beside mlm_loss
NOT_DRAWN = {"eval/tokens", COUNTING}
MAX_MORE = 60  # further panels


class Panel(NamedTuple):
    """One chart."""

    title: str
    training: str  # metric of training rows, "" for none
    points: str  # metric of evaluations or probes, "" for none


def choose_panels(metrics: Collection[str]) -> tuple[list[Panel], list[Panel]]:
    """The panels of MAIN and the probes, and all others."""
    left = set(metrics) - NOT_DRAWN
    main = []
    for name, title in MAIN.items():
        if {name, EVALUATION + name} & left:
            main.append(_panel(title, name, left))
            left -= {name, EVALUATION + name}
    probes = sorted(name for name in left if name.startswith(PROBE))
    main += [Panel(f"Probe: {_words(name.removeprefix(PROBE))}", "", name) for name in probes]
    left -= set(probes)
    others = sorted({name.removeprefix(EVALUATION) for name in left})
    return main, [_panel(_words(name), name, left) for name in others][:MAX_MORE]


def _panel(title: str, name: str, metrics: Collection[str]) -> Panel:
    evaluation = EVALUATION + name
    return Panel(title, name if name in metrics else "", evaluation if evaluation in metrics else "")


def _words(name: str) -> str:
    return name.replace("_", " ")
