"""Continue from another run, or from an imported model: `--config=configs/continued.py:run=DIR`.

It has the settings of the run in DIR (of its last stage, if it has stages) and starts from its newest
checkpoint, or with run=DIR:STEP from that of a step, with the settings of its stage. The new run records the
step, and keeps it when it resumes. The vocabulary is that of the run; the row length is that of the datasets.
Data, optimizer state and step count are fresh: it is a new run, whose learning rate warms up again. Pass what
differs, at least the data. The learning rate, warm-up and number of steps of the run's first training are too
much for most purposes. Microsoft's script trains DeBERTaV3 xsmall from scratch with a rate of 3e-4 in
1,000,000 steps, and continues it with a rate of 5e-5 in 100,000 steps, 10,000 of them warm-up: a sixth of the
rate, a tenth of the steps, and a tenth of these for the warm-up.

    python -m electra_jax.pretrain --config=configs/continued.py:run=runs/imported --workdir=runs/continued \\
        --config.data.datasets=data/corpus --config.optimizer.learning_rate=5e-5 \\
        --config.train.num_steps=100000

For another domain: `--config.data.datasets=data/domain,data/old --config.data.weights=3,1` replays the old
one, stages change the share that is masked, and `convert import --new_tokenizer` adds tokens. Commands and
figures are in configs/README.md.

Code that the run names, a recipe of your own for its probe or trackers of your own, is not taken over: its
directory may come from somebody else. A line on stderr names what to pass if you trust it.

`pretrain` proposes these values if none is changed; `convert import` writes them for foreign checkpoints.
Both give a schedule without a decay, as that of ModernBERT's phase 1, a linear one, and shorten a decay that
leaves no room for the warm-up, as that of its phase 3.
Source: microsoft/DeBERTa, rtd.sh, deberta-v3-xsmall and deberta-v3-*-continue, batches of 256 rows to
continue. No result was published with it, and it was not run at that scale here.
"""

from ml_collections import config_dict

from data_pipelines.json_files import misread
from electra_jax.configuration.checkpoint_names import parse_checkpoint
from electra_jax.configuration.foreign_code import without_code
from electra_jax.configuration.migration import upgrade_config, with_tuples
from electra_jax.configuration.recipe_argument import parse_recipe_argument, read_run_description
from electra_jax.configuration.stages import last_stage, stage_at


def get_config(arg: str | None = None) -> config_dict.ConfigDict:
    """The configuration of the run that the argument names, starting from a checkpoint of it.

    Raises:
      ValueError: the argument names no run directory.
    """
    run = parse_recipe_argument(arg, run="")["run"]
    name = parse_checkpoint(run)
    description = read_run_description(name.directory) if run else None
    found = {} if description is None else description.get("config")
    if not isinstance(found, dict) or "objective" not in found:
        raise ValueError(
            f"config argument run: got {run!r}, expected the directory of a run, or of an imported model, "
            "with its config.json."
        )
    where = f"{name.directory}/config.json"
    with misread(where):
        config = upgrade_config(description["config"])
        if name.step is None:
            config = last_stage(config)
        else:
            # Whether there is such a checkpoint shows later.
            step = min(name.step, config["train"]["num_steps"])
            config = stage_at(config, step).config | {"stages": ()}
        config = with_tuples(without_code(config, where))
        config["checkpoint"]["init_from"] = run
        config["assumed"] = {
            "vocab_size": config["model"]["vocab_size"],
            "sequence_length": config["data"]["sequence_length"],
        }
        config["data"]["sequence_length"] = 0
        return config_dict.ConfigDict(config)  # which takes no key with a dot
