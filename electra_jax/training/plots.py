"""Learning curves of a run directory as one picture."""

import os
from pathlib import Path

from electra_jax.training.writers import read_metrics

# Panel title → metric, drawn for training rows and, under eval/, for evaluation rows.
PANELS = {"masked language modelling loss (nats)": "mlm_loss", "replaced token detection AUC": "rtd_auc"}


def plot_curves(run_dir: str | os.PathLike) -> Path:
    """Draws run_dir/metrics.jsonl into run_dir/plots/curves.png and returns that path.

    The loss panel carries the unigram entropy of the held-out tokens, the level of a model that only counts words, when
    an evaluation row holds `eval/unigram_entropy`. Values that were not finite leave gaps.

    Raises:
      ImportError: matplotlib is not installed (extra `plots`).
      ValueError: no metrics, or a damaged metrics.jsonl.
    """
    try:
        from matplotlib.figure import Figure  # not pyplot: no global state, no display
    except ImportError as error:
        raise ImportError("curves need matplotlib: pip install 'electra_jax[plots]'.") from error
    rows = read_metrics(run_dir)
    if not rows:
        raise ValueError(f"{run_dir}: expected metrics.jsonl with at least one row, found none. Train for "
                         "config.log.every steps first.")
    figure = Figure(figsize=(5.5 * len(PANELS), 4.0), layout="constrained")
    for axes, (title, metric) in zip(figure.subplots(1, len(PANELS)), PANELS.items(), strict=True):
        for name, style in ((metric, {"alpha": 0.7, "label": "training"}),
                            (f"eval/{metric}", {"marker": "o", "markersize": 3, "label": "held out"})):
            points = [(row["step"], row[name]) for row in rows if name in row]
            if points:
                steps, values = zip(*points, strict=True)
                axes.plot(steps, [float("nan") if value is None else value for value in values], **style)
        entropies = [row["eval/unigram_entropy"] for row in rows if row.get("eval/unigram_entropy") is not None]
        if metric == "mlm_loss" and entropies:
            axes.axhline(entropies[-1], linestyle="--", color="gray", label="unigram entropy")
        axes.set(title=title, xlabel="step")
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend()
    path = Path(run_dir) / "plots" / "curves.png"
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=120)
    return path
