"""Tiny models of ELECTRA's ablations: one layer of 16, 64 words, so that they share compiled
programs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from electra_jax.models.config import encoder_shape, make_pretraining_config
from electra_jax.objectives.registry import make_objective
from support.random_parameters import random_parameters
from support.tiny import LENGTH, SPECIAL, key, objective_section, rows
from support.training_steps import config

VOCAB, CHUNK = 64, 16
O0 = {"xla_backend_optimization_level": 0}  # halves the time to compile


def full_config(name, generator="model", model=None, **changes):
    """A whole configuration; `changes` are of config.objective."""
    full = config()
    full["model"] |= {
        "vocab_size": VOCAB,
        "embedding_size": 16,
        "hidden_dropout": 0.0,
        "attention_dropout": 0.0,
        "generator": encoder_shape(16, 1),
        "discriminator": encoder_shape(16, 1),
    }
    if name == "two_stage":
        full["model"]["embedding_sharing"] = "none"
    full["model"] |= model or {}
    full["objective"] = (
        objective_section(name) | {"generator": generator, "vocab_chunk_size": CHUNK} | changes
    )
    return full


def make(name, generator="model", model=None, **changes):
    """The objective of `full_config`."""
    full = full_config(name, generator, model, **changes)
    return make_objective(full, make_pretraining_config(full["model"]), SPECIAL)


@functools.cache
def prepared(name, generator="model", length=LENGTH, **changes):
    """(objective, parameters, batch of four rows)."""
    objective = make(name, generator, **changes)
    batch = jax.jit(objective.prepare)(key(1), jnp.asarray(rows(4, length, vocab_size=VOCAB)))
    return objective, random_params(objective, length), batch


def random_params(objective, length=LENGTH):
    """Parameters of an objective that are nowhere zero."""
    return random_parameters(lambda: objective.init(key(), length), spread=0.2)


def loss_of(objective, batch, dropout_key=None):
    """(parameters → (loss, sums)) of an objective of one phase."""
    normalizers = objective.normalizers(batch)

    def loss(params):
        value, (sums, _) = objective.phases[0].loss(params, batch, normalizers, dropout_key, None)
        return value, sums

    return loss


def bce(logits, labels):
    return np.logaddexp(0.0, logits) - logits * labels


def is_chosen(batch):
    out = np.zeros(batch.ids_BL.shape, bool)
    for row, (positions, weights) in enumerate(zip(batch.positions_BP, batch.weights_BP, strict=True)):
        out[row, positions[weights > 0]] = True
    return out
