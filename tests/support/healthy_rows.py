"""Rows of metrics of real, healthy runs of the debug recipes at their normal length, in golden/healthy/.

To replace them, train the recipes and keep their rows:

    python -m electra_jax.compare --suite=reference --config=configs/debug.py:model=MODEL \\
        --config.data.datasets=runs/data/corpus --workdir=runs/reference/MODEL
    PYTHONPATH=tests python -m support.healthy_rows runs/reference/MODEL/recipe/seed_* MODEL
"""

import json
import sys
from pathlib import Path

from configs import debug
from electra_jax.training.writers import read_metrics
from support.paths import ROOT

FOLDER = ROOT / "tests/golden/healthy"
# What alarms do not read, and what tells more of how busy the machine was than of the run.
PRECISIONS = tuple(f"{task}_precision" for task in ("rtd", "std", "itd"))
LEFT_OUT = ("gradient_norm", "model_flops", "tokens", "data_wait", "re_", *PRECISIONS)
DIGITS = 6
HEALTHY = [tuple(path.stem.rsplit("_seed_", 1)) for path in sorted(FOLDER.glob("*.jsonl"))]  # (model, seed)


def read_healthy(model, seed):
    """(configuration of the recipe, rows)."""
    path = FOLDER / f"{model}_seed_{seed}.jsonl"
    config = debug.get_config(f"model={model}").to_dict()
    return config, [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def record(workdir, model):
    """Keep the rows of a run, whose directory is called seed_N: what alarms read, and DIGITS digits of it."""
    shorten = lambda value: float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value
    lines = [
        json.dumps(
            {
                name: shorten(value)
                for name, value in row.items()
                if not name.removeprefix("eval/").startswith(LEFT_OUT)
            }
        )
        for row in read_metrics(workdir)
    ]
    FOLDER.mkdir(exist_ok=True)
    path = FOLDER / f"{model}_{Path(workdir).name}.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    for run in sys.argv[1:-1]:
        record(run, sys.argv[-1])
