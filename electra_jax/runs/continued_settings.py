"""What to change for a run that starts from the parameters of another one (configs/continued.py)."""

from typing import Any

from electra_jax.configuration.checkpoint_names import parse_checkpoint
from electra_jax.configuration.stages import make_stages
from electra_jax.runs.bucket_runs import local_directory
from electra_jax.runs.trained import read_description
from electra_jax.training.schedules import decay_length, has_decay

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
DECAYING = {"schedule": "warmup_then_decay", "decay_steps": 0, "final_share": 0.0}
# The longest decay beside the warm-up, for a run whose last stage is nothing but a decay.
SHORTENED = {"decay_steps": 0, "decay_share": 1 - 1 / WARMUP_DIVISOR}


def continued_sections(config: dict[str, Any]) -> dict[str, Any]:
    """The sections of `config` with the values of CONTINUED, and with a schedule that ends in a decay."""
    sections = {section: config[section] | values for section, values in CONTINUED.items()}
    sections["optimizer"] |= _fitting_decay(sections["optimizer"], sections["train"]["num_steps"])
    return sections


def propose_settings(config: dict[str, Any]) -> str:
    """A sentence with the flags for a shorter and gentler training, if a run would repeat the learning rate,
    warm-up and number of steps of a stage of the run that it starts from; "" if it does not, or if they are
    meant for continuing a trained model."""
    initial = config["checkpoint"]["init_from"]
    if not initial:
        return ""
    theirs = read_description(local_directory(parse_checkpoint(initial).directory))["config"]
    is_same_method = theirs["objective"]["name"] == config["objective"]["name"]
    # configs/continued.py copies the last stage, or that of a step.
    repeats = any(_has_same_length_and_rate(stage.config, config) for stage in make_stages(theirs))
    is_gentle = _has_same_length_and_rate(CONTINUED, config)
    if not is_same_method or not repeats or is_gentle or theirs["checkpoint"]["init_from"]:
        return ""
    flags = " ".join(f"--config.{key}={value}" for key, value in _proposed(config).items())
    return (
        f"Learning rate, warm-up and number of steps are those of the first training of {initial}. To "
        "continue a trained model, Microsoft's rtd.sh takes a sixth of the rate, a tenth of the steps and a "
        f"linear decay: {flags}"
    )


def _proposed(config: dict[str, Any]) -> dict[str, Any]:
    """Key → value of what to change."""
    old, num_steps = config["optimizer"], max(1, config["train"]["num_steps"] // STEPS_DIVISOR)
    optimizer = {"warmup_steps": num_steps // WARMUP_DIVISOR}
    gentler = {
        "optimizer.learning_rate": f"{old['learning_rate'] / RATE_DIVISOR:.2g}",
        "optimizer.warmup_steps": optimizer["warmup_steps"],
        "train.num_steps": num_steps,
    }
    if old["decay_steps"]:
        optimizer["decay_steps"] = max(1, old["decay_steps"] // STEPS_DIVISOR)
    optimizer |= _fitting_decay(old | optimizer, num_steps)
    return gentler | {f"optimizer.{key}": value for key, value in optimizer.items() if value != old[key]}


def _has_same_length_and_rate(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(one[section][key] == other[section][key] for section, key in KEYS)


def _fitting_decay(optimizer: dict[str, Any], num_steps: int) -> dict[str, Any]:
    """What to change in config.optimizer for a schedule with a decay which leaves the warm-up room."""
    if not has_decay(optimizer):
        return DECAYING
    fits = optimizer["warmup_steps"] + decay_length(optimizer, num_steps) <= num_steps
    return {} if fits else SHORTENED
