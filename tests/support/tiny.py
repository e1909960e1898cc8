"""A tiny model, its inputs and its objective, for tests of everything that stands on them."""

import jax
import numpy as np

from configs import debug
from electra_jax.models.config import encoder_shape, make_pretraining_config
from electra_jax.models.inputs import SpecialTokens
from electra_jax.objectives.deberta_v3 import make_deberta_v3_objective
from electra_jax.objectives.electra import make_electra_objective
from electra_jax.objectives.mcl import make_mcl_objective
from electra_jax.objectives.mlm import make_mlm_objective
from electra_jax.objectives.registry import own_settings

SPECIAL = SpecialTokens(pad=0, cls=1, sep=2, mask=4, unk=3)
LENGTH = 24


def model_section(**changes):
    """config.model of a model small enough to compile in a second; published start, tied embeddings, no
    dropout."""
    model = debug.get_config().model.to_dict()
    return (
        model
        | {
            "vocab_size": 256,
            "embedding_size": 16,
            "max_position_embeddings": 32,
            "initializer": "published",
            "embedding_sharing": "tied",
            "generator": encoder_shape(16, 1) | {"num_heads": 2},
            "discriminator": encoder_shape(32, 2) | {"num_heads": 4},
        }
        | changes
    )


def relative_section(positions=True, **changes):
    """config.model of a tiny model with a relative bias, whose rows reach every bucket."""
    bias = {"num_buckets": 12, "max_distance": 14, "position_biased_input": positions}
    return model_section(position="relative_bias", relative_bias=bias) | changes


def objective_section(name="electra", **changes):
    """config.objective of an objective, with the paper's rates and the debug recipe's weights."""
    return own_settings(debug.get_config().objective.to_dict() | {"name": name}) | changes


def electra(model=None, **changes):
    """ELECTRA's objective over the tiny model."""
    return make_electra_objective(
        make_pretraining_config(model or model_section()), objective_section(**changes), SPECIAL
    )


def deberta_section(**changes):
    """config.model of a tiny DeBERTaV3; published start, gradient-disentangled sharing, no dropout."""
    model = debug.get_config("model=deberta_v3").model.to_dict()
    return (
        model
        | {
            "vocab_size": 256,
            "embedding_size": 32,
            "max_position_embeddings": 32,
            "initializer": "published",
            "generator": encoder_shape(32, 2) | {"num_heads": 2},
            "discriminator": encoder_shape(32, 2) | {"num_heads": 2},
        }
        | changes
    )


def shallow_deberta_section(**changes):
    """The same with one layer in each encoder, and so without the enhanced mask decoder, which needs two."""
    section = deberta_section()
    return (
        section
        | {
            "disentangled": section["disentangled"] | {"enhanced_mask_decoder": False},
            "generator": encoder_shape(32, 1) | {"num_heads": 2},
            "discriminator": encoder_shape(32, 1) | {"num_heads": 2},
        }
        | changes
    )


def modern_section(**changes):
    """config.model of a tiny ModernBERT with layers of all kinds, whose windows end within documents;
    published start, gradient-disentangled sharing, no dropout."""
    model = debug.get_config("model=modernbert").model.to_dict()
    shape = {"hidden_size": 32, "num_heads": 2, "intermediate_size": 48}
    return (
        model
        | {
            "vocab_size": 256,
            "embedding_size": 32,
            "max_position_embeddings": 32,
            "initializer": "published",
            "rotary": model["rotary"] | {"window": 4},
            "generator": shape | {"num_layers": 2},
            "discriminator": shape | {"num_layers": 3},
        }
        | changes
    )


def deberta(model=None, **changes):
    """DeBERTaV3's objective over the tiny model."""
    return make_deberta_v3_objective(
        make_pretraining_config(model or deberta_section()), objective_section(**changes), SPECIAL
    )


def mlm(model=None, **changes):
    """The masked-language-model baseline over the tiny model."""
    return make_mlm_objective(
        make_pretraining_config(model or model_section()), objective_section("mlm") | changes, SPECIAL
    )


def mcl_arguments(model=None, **changes):
    """The arguments of MCL's maker for the tiny model, with all courses."""
    objective = objective_section(
        name="mcl",
        std_weight=5.0,
        itd_weight=5.0,
        re_rtd_weight=5.0,
        re_std_weight=5.0,
    )
    return make_pretraining_config(model or model_section()), objective | changes, SPECIAL


def mcl(model=None, **changes):
    """MCL's objective over the tiny model."""
    return make_mcl_objective(*mcl_arguments(model, **changes))


def rows(num_rows=8, length=LENGTH, seed=0, vocab_size=256):
    """Rows [n, length] as the corpus packs them: two documents, the second with two segments, then
    padding."""
    rng = np.random.default_rng(seed)
    out = np.zeros((num_rows, length), np.int32)
    for row in out:
        first, second, third = rng.integers(2, 6, size=3)
        text = lambda n: rng.integers(5, vocab_size, size=n).tolist()
        ids = [1, *text(first), 2, 1, *text(second), 2, *text(third), 2]
        row[: len(ids)] = ids
    return out


def key(seed=0):
    return jax.random.key(seed)
