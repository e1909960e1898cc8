"""Learning curves of a run directory as one picture."""

import os
from pathlib import Path

from electra_jax.training.writers import read_metrics

# Panel title → metric, drawn for training rows and, under eval/, for evaluation rows.
PANELS = {"masked language modelling loss (nats)": "mlm_loss", "replaced token detection AUC": "rtd_auc"}
PROBES = "probes"  # title of one more panel, for rows under probe/


def plot_curves(run_dir: str | os.PathLike) -> Path:
    """Draws run_dir/metrics.jsonl into run_dir/plots/curves.png and returns that path.

    The loss panel carries the unigram entropy of the held-out tokens, the level of a model that only counts
    words, when an evaluation row holds `eval/unigram_entropy`. A run with probes has a panel for them. Values
    that were not finite leave gaps.

    Raises:
      ImportError: matplotlib is not installed.
      ValueError: no metrics, or a damaged metrics.jsonl.
    """
    try:
        from matplotlib.figure import Figure  # not pyplot: no global state, no display
    except ImportError as error:
        raise ImportError("curves need matplotlib: pip install 'electra_jax[plots]'.") from error
    rows = read_metrics(run_dir)
    if not rows:
        raise ValueError(
            f"{run_dir}: expected metrics.jsonl with at least one row, found none. Train for "
            "config.log.every steps first."
        )
    probes = sorted({name for row in rows for name in row if name.startswith("probe/")})
    points = {"marker": "o", "markersize": 3}
    panels = {
        title: {metric: {"alpha": 0.7, "label": "training"}, f"eval/{metric}": points | {"label": "held out"}}
        for title, metric in PANELS.items()
    }
    if probes:
        panels[PROBES] = {name: points | {"label": name.removeprefix("probe/")} for name in probes}
    figure = Figure(figsize=(5.5 * len(panels), 4.0), layout="constrained")
    for axes, (title, curves) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        for name, style in curves.items():
            drawn = [(row["step"], row[name]) for row in rows if name in row]
            if drawn:
                steps, values = zip(*drawn, strict=True)
                axes.plot(steps, [float("nan") if value is None else value for value in values], **style)
        entropies = [
            row["eval/unigram_entropy"] for row in rows if row.get("eval/unigram_entropy") is not None
        ]
        if "mlm_loss" in curves and entropies:
            axes.axhline(entropies[-1], linestyle="--", color="gray", label="unigram entropy")
        axes.set(title=title, xlabel="step")
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend()
    path = Path(run_dir) / "plots" / "curves.png"
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=120)
    return path
