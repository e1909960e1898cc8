"""What to change for a run that starts from the parameters of another one (configs/continued.py)."""

from typing import Any

from electra_jax.configuration.checkpoint_names import parse_checkpoint
from electra_jax.runs.bucket_runs import local_directory
from electra_jax.runs.trained import read_description
from electra_jax.training.schedules import has_decay

# Microsoft's rtd.sh trains DeBERTaV3 xsmall with a rate of 3e-4 in 1,000,000 steps, and continues it with
# 5e-5 in 100,000 steps, 10,000 of them warm-up.
RATE_DIVISOR, STEPS_DIVISOR, WARMUP_DIVISOR = 6, 10, 10
KEYS = (("optimizer", "learning_rate"), ("optimizer", "warmup_steps"), ("train", "num_steps"))
# What `convert import` gives a model that was trained elsewhere: deberta-v3-small-continue in rtd.sh. The
# recipes' own values are for training from scratch.
CONTINUED: dict[str, dict[str, Any]] = {
    "optimizer": {"learning_rate": 5e-5, "warmup_steps": 10_000},
    "train": {"num_steps": 100_000, "batch_size": 256},
}
# rtd.sh's schedule, for a run whose own one leaves the decay to a later phase, as ModernBERT's does.
DECAYING = "warmup_then_decay"


def continued_sections(config: dict[str, Any]) -> dict[str, Any]:
    """The sections of `config` with the values of CONTINUED, and with a schedule that ends in a decay."""
    sections = {section: config[section] | values for section, values in CONTINUED.items()}
    if not has_decay(sections["optimizer"]):
        sections["optimizer"]["schedule"] = DECAYING
    return sections


def propose_settings(config: dict[str, Any]) -> str:
    """A sentence with the flags for a shorter and gentler training, if a run would repeat the learning rate,
    warm-up and number of steps of the run that it starts from; "" if it does not, or if they are meant for
    continuing a trained model."""
    initial = config["checkpoint"]["init_from"]
    if not initial:
        return ""
    theirs = read_description(local_directory(parse_checkpoint(initial).directory))["config"]
    is_same_method = theirs["objective"]["name"] == config["objective"]["name"]
    repeats, is_gentle = (
        all(one[section][key] == config[section][key] for section, key in KEYS) for one in (theirs, CONTINUED)
    )
    if not is_same_method or not repeats or is_gentle or theirs["checkpoint"]["init_from"]:
        return ""
    num_steps = max(1, config["train"]["num_steps"] // STEPS_DIVISOR)
    values = {
        "optimizer.learning_rate": f"{config['optimizer']['learning_rate'] / RATE_DIVISOR:.2g}",
        "optimizer.warmup_steps": num_steps // WARMUP_DIVISOR,
        "train.num_steps": num_steps,
    }
    if decay_steps := config["optimizer"]["decay_steps"]:
        values["optimizer.decay_steps"] = max(1, decay_steps // STEPS_DIVISOR)
    if not has_decay(config["optimizer"]):
        values["optimizer.schedule"] = DECAYING
    return (
        f"Learning rate, warm-up and number of steps are those of the first training of {initial}. To "
        "continue a trained model, Microsoft's rtd.sh takes a sixth of the rate, a tenth of the steps and a "
        "linear decay: "
        f"{' '.join(f'--config.{key}={value}' for key, value in values.items())}"
    )
