"""The card of a fine-tuned model tells what it was trained on."""

import pytest

from electra_jax.configuration.recipes import load_config
from electra_jax.huggingface.card_parts import Publication
from electra_jax.huggingface.task_card import make_task_card
from electra_jax.models.config import make_pretraining_config
from support.tiny import model_section


@pytest.mark.parametrize(
    ("limit", "text"),
    [(0, "on `news.tsv` with seed 3"), (1000, "on at most 1,000 examples of `news.tsv` with seed 3")],
)
def test_a_limit_of_the_examples_is_in_the_card(limit, text):
    config = load_config("configs/finetune.py:task=local").to_dict()
    config["task"] |= {"train": "/private/news.tsv", "max_train_examples": limit}
    description = {
        "config": config,
        "task": config["task"],
        "labels": ["sport", "politics"],
        "settings": {},
        "seed": 3,
        "metrics": {"accuracy": 0.9},
    }
    encoder = make_pretraining_config(model_section()).discriminator
    card = make_task_card(
        encoder, description, Publication(None, None, None), start="/private/run", is_fresh=False
    )
    assert f"Fine-tuned from the encoder of `run` {text}: 3 epochs" in card and "/private" not in card
