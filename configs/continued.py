"""Go on from another run, or from an imported model: `--config=configs/continued.py:run=DIR`.

The settings of the run in DIR, those of its last stage where it has several, with fresh data, optimizer and
step count: what follows is a run of its own, whose learning rate warms up again. Set what shall differ, at
least the data:

    python -m electra_jax.pretrain --config=configs/continued.py:run=runs/imported --workdir=runs/continued \\
        --config.data.datasets=data/corpus --config.optimizer.learning_rate=5e-5 --config.train.num_steps=100000

Microsoft's script goes on with a learning rate of 5e-5 for 100,000 steps of 256 rows (rtd.sh,
deberta-v3-*-continue).
"""

import json
from pathlib import Path

from ml_collections import config_dict

from electra_jax.configuration.migration import upgrade_config
from electra_jax.configuration.recipe_argument import parse_recipe_argument
from electra_jax.configuration.stages import last_stage

# For runs made before there were probes, or moving averages; explained in electra.py.
PROBE = {
    "every": 0,
    "config": "configs/finetune.py:task=trec6",
    "train": "",
    "validation": "",
    "text": "",
    "pair": "",
    "label": "",
    "max_examples": 1000,
    "num_epochs": 3,
    "seed": 0,
}


def get_config(arg: str | None = None) -> config_dict.ConfigDict:
    """The configuration of the run named by the argument, starting from its newest checkpoint."""
    run = parse_recipe_argument(arg, run="")["run"]
    path = Path(run, "config.json")
    if not run or not path.is_file():
        raise ValueError(
            f"config argument run: got {run!r}, expected the directory of a run, or of an imported model, "
            "with its config.json."
        )
    config = upgrade_config(last_stage(json.loads(path.read_text())["config"]))
    # JSON knows lists alone; tuples are what the command line can set.
    config["optimizer"]["groups"] = tuple(map(tuple, config["optimizer"]["groups"]))
    config["data"] |= {key: tuple(config["data"][key]) for key in ("datasets", "weights")}
    config["checkpoint"]["init_from"] = run
    config.setdefault("probe", PROBE)
    return config_dict.create(**config)
