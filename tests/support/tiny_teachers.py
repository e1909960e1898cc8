"""Tiny teachers of a tiny student: one of its width, and one that is wider."""

from electra_jax.models.config import encoder_shape
from electra_jax.objectives.registry import parameter_form
from support.tiny_ablations import full_config

SAME, WIDE = encoder_shape(16, 1), encoder_shape(32, 2)


def teacher(name, shape=SAME, **changes):
    """An entry of config.objective.teacher_models; `changes` are of config.model."""
    model = full_config(name)["model"] | {"discriminator": shape, "generator": shape} | changes
    return {"form": parameter_form({"name": name, "generator": "model"}), "model": model, "checksum": ""}


def settings(*models, **changes):
    """The keys of config.objective for teachers with these entries."""
    names = tuple(f"run_{number}" for number, _ in enumerate(models))
    return {"teachers": names, "teacher_models": models, "vocab_chunk_size": 0} | changes
