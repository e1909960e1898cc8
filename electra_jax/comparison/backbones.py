"""A recipe of DeBERTaV3 with ModernBERT's encoders in place of its own, as wide and as deep, with as many
parameters as the shapes allow."""

from typing import Any

from ml_collections import config_dict

from electra_jax.finetuning.encoder_shapes import num_encoder_parameters
from electra_jax.models.config import make_pretraining_config
from electra_jax.objectives.registry import find_row

ENCODERS = ("generator", "discriminator")
WIDTH_STEP = 8  # inner widths are multiples of it
# The published values (configs/modernbert.py). The window of short rows is a quarter of a row: a longer one
# would leave little of the difference between local and global layers.
WINDOW, GLOBAL_EVERY, THETA, EPSILON = 128, 3, 10_000.0, 1e-5


def check_recipe(config: config_dict.ConfigDict) -> None:
    """Raises ValueError unless the recipe trains DeBERTaV3's encoders by replaced token detection."""
    position, name = config.model.position, config.objective.name
    if position != "disentangled":
        raise ValueError(
            f"config.model.position: got {position!r}, expected 'disentangled' with --suite=backbones, which "
            "makes ModernBERT's encoders from those of DeBERTaV3. Pass, for example, "
            "--config=configs/debug.py:model=deberta_v3."
        )
    if find_row(name).predicts_tokens:
        raise ValueError(
            f"config.objective.name: got {name!r}, expected an objective with a discriminator with "
            "--suite=backbones, which adds masked language modelling itself. Leave it out."
        )


def to_modernbert(config: config_dict.ConfigDict) -> None:
    """Change config.model, in place, to ModernBERT's encoders.

    Hidden sizes, layers, heads and initial values stay. The width of the gated layers is that with which an
    encoder has the number of parameters nearest to the one it replaces. As in the published model there is
    no dropout but that of attention's output, at the recipe's hidden_dropout.
    """
    before = config.model.to_dict()
    quarter = config.data.sequence_length // 4
    changed = before | {
        "type_vocab_size": 0,
        "layer_norm_epsilon": EPSILON,
        "position": "rotary",
        "disentangled": None,
        "rotary": {
            "global_attention_every": GLOBAL_EVERY,
            "window": max(2, min(WINDOW, quarter - quarter % 2)),
            "global_theta": THETA,
            "local_theta": THETA,
            "attention_output_dropout": before["hidden_dropout"],
        },
        "hidden_dropout": 0.0,
        "attention_dropout": 0.0,
    }
    targets = make_pretraining_config(before)
    for encoder in ENCODERS:
        changed = _with_width(changed, encoder, num_encoder_parameters(getattr(targets, encoder)))
    with config.unlocked():
        config.model = config_dict.ConfigDict(changed)


def _with_width(model: dict[str, Any], encoder: str, target: int) -> dict[str, Any]:
    """`model` with the intermediate_size of one encoder whose number of parameters is nearest to `target`."""

    def of_width(width: int) -> dict[str, Any]:
        return model | {encoder: model[encoder] | {"intermediate_size": width}}

    def size(width: int) -> int:
        made = make_pretraining_config(of_width(width))
        return num_encoder_parameters(getattr(made, encoder))

    least = size(WIDTH_STEP)  # the number of parameters is linear in the width
    steps = round((target - least) / (size(2 * WIDTH_STEP) - least))
    return of_width(WIDTH_STEP * (1 + max(0, steps)))
