"""Run directories with random parameters, like those of pre-training, for tests of their readers."""

import contextlib
import functools
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import debug
from electra_jax.configuration.sizes import with_assumed_sizes
from electra_jax.conversion import export_run as conversion
from electra_jax.conversion.export_run import ExportOptions, export_run
from electra_jax.huggingface.card_parts import Publication
from electra_jax.models.config import encoder_shape, make_pretraining_config
from electra_jax.objectives.registry import find_row, make_objective
from electra_jax.objectives.requirements import chunk_size_of
from electra_jax.training.checkpointing import Checkpointer
from support import tiny_run
from support.random_parameters import random_parameters
from support.tiny import SPECIAL, deberta_section, model_section, relative_section

LENGTH, VOCAB = tiny_run.LENGTH, tiny_run.VOCAB


def electra_model(**changes):
    """config.model of a tiny ELECTRA with narrower embeddings and a narrower generator."""
    return model_section(**{"vocab_size": VOCAB, "max_position_embeddings": LENGTH} | changes)


def deberta_model(decoder=False, **changes):
    """config.model of a tiny DeBERTaV3. Rows are long enough to reach logarithmic buckets."""
    disentangled = deberta_section()["disentangled"] | {
        "enhanced_mask_decoder": decoder,
        "position_buckets": 16,
        "max_relative_positions": LENGTH,
    }
    disentangled |= changes.pop("disentangled", {})
    return deberta_section(
        vocab_size=VOCAB, max_position_embeddings=LENGTH, disentangled=disentangled, **changes
    )


def relative_model(**changes):
    """config.model of a tiny ELECTRA with a relative bias."""
    return relative_section(vocab_size=VOCAB, max_position_embeddings=LENGTH, **changes)


def modern_model(**changes):
    """config.model of a tiny ModernBERT: four layers, of which the first and the last are global, and a
    window that is shorter than a row."""
    shape = {"hidden_size": 32, "num_layers": 4, "num_heads": 2, "intermediate_size": 48}
    rotary = {
        "global_attention_every": 3,
        "window": 8,
        "global_theta": 160_000.0,
        "local_theta": 10_000.0,
        "attention_output_dropout": 0.1,
    }
    section = {
        "vocab_size": VOCAB,
        "max_position_embeddings": LENGTH,
        "embedding_size": 32,
        "type_vocab_size": 0,
        "layer_norm_epsilon": 1e-5,
        "position": "rotary",
        "rotary": rotary,
        "generator": shape | {"num_layers": 2},
        "discriminator": shape,
    }
    return model_section(**section | changes)


def make_config(model, data, objective="electra", generator="model"):
    """A complete configuration with this config.model."""
    config = with_assumed_sizes(debug.get_config("model=mcl" if objective == "mcl" else None).to_dict())
    config["model"] = model
    config["objective"] |= {"name": objective, "generator": generator}
    row = find_row(objective)
    row.adapt(config)
    if row.needs_chunks:
        config["objective"]["vocab_chunk_size"] = chunk_size_of(model["vocab_size"])
    config["data"] |= {"datasets": [str(data / "corpus")], "sequence_length": LENGTH}
    return json.loads(json.dumps(config))  # as read from a file


def random_params(config):
    """Parameters whose biases, LayerNorms and deltas differ from their initial values, so that a lost one
    shows."""
    settings = json.dumps({section: config[section] for section in ("model", "objective")}, sort_keys=True)
    return jax.tree.map(jnp.array, _random_params(settings))


@functools.cache
def _random_params(settings):
    """On the host. Many tests take the same ones, and tracing their initialisation takes a second."""
    config = json.loads(settings)
    objective = make_objective(config, make_pretraining_config(config["model"]), SPECIAL)
    return jax.device_get(random_parameters(lambda: objective.init(jax.random.key(0), LENGTH)))


def make_run(workdir: Path, data: Path, model, objective="electra", generator="model"):
    """(run directory at step 0, its parameters)."""
    config = make_config(model, data, objective, generator)
    params = random_params(config)
    workdir.mkdir(parents=True)
    (workdir / "config.json").write_text(json.dumps({"config": config, "data": []}))
    shutil.copytree(data / "tokenizer_corpus", workdir / "tokenizer")
    with contextlib.closing(Checkpointer(str(workdir / "checkpoints"), keep=1)) as checkpointer:
        checkpointer.save_params(params, {})
    return workdir, jax.tree.map(np.asarray, params)


def save_steps(workdir, params, *steps):
    """Save parameters as the checkpoints of steps, in place of the checkpoint of `make_run`."""
    shutil.rmtree(workdir / "checkpoints" / "0", ignore_errors=True)
    with contextlib.closing(Checkpointer(str(workdir / "checkpoints"), keep=10)) as checkpointer:
        for step in steps:
            checkpointer.save(step, {"params": jax.tree.map(jnp.asarray, params)}, {})
        checkpointer.wait()


PLAIN = ExportOptions(
    "float32", inexact_generator=False, custom_code=False, publication=Publication(None, None, None)
)
WIDE = encoder_shape(32, 2) | {"num_heads": 2}
# name: (config.model, objective, options, the folders of the export)
VARIANTS = {
    "electra_tied": (electra_model(), "electra", PLAIN, ["discriminator", "generator"]),
    "electra_none": (
        electra_model(embedding_sharing="none"),
        "electra",
        PLAIN,
        ["discriminator", "generator"],
    ),
    "electra_gdes": (
        electra_model(embedding_sharing="gdes"),
        "electra",
        PLAIN,
        ["discriminator", "generator"],
    ),
    "electra_wide": (
        electra_model(embedding_size=32, generator=WIDE, discriminator=WIDE, type_vocab_size=3),
        "electra",
        PLAIN,
        ["discriminator", "generator"],
    ),  # no embeddings_project
    "electra_mlm": (electra_model(), "mlm", PLAIN, ["generator"]),
    "electra_bfloat16": (
        electra_model(),
        "electra",
        PLAIN._replace(dtype="bfloat16"),
        ["discriminator", "generator"],
    ),
    "relative": (relative_model(type_vocab_size=0), "electra", PLAIN, ["discriminator", "generator"]),
    "modern": (modern_model(embedding_sharing="gdes"), "electra", PLAIN, ["discriminator", "generator"]),
    "deberta_gdes": (deberta_model(), "deberta_v3", PLAIN, ["discriminator", "generator"]),
    "deberta_tied": (
        deberta_model(embedding_sharing="tied"),
        "deberta_v3",
        PLAIN,
        ["discriminator", "generator"],
    ),
    "deberta_none": (
        deberta_model(embedding_sharing="none"),
        "deberta_v3",
        PLAIN,
        ["discriminator", "generator"],
    ),
    "deberta_code": (
        deberta_model(),
        "deberta_v3",
        PLAIN._replace(custom_code=True),
        ["discriminator", "generator"],
    ),
    "deberta_v2": (
        deberta_model(disentangled={"conv_kernel_size": 3, "position_biased_input": True}),
        "deberta_v3",
        PLAIN,
        ["discriminator", "generator"],
    ),
    "deberta_decoder": (deberta_model(decoder=True), "deberta_v3", PLAIN, ["discriminator"]),
    "deberta_inexact": (
        deberta_model(decoder=True),
        "deberta_v3",
        PLAIN._replace(inexact_generator=True),
        ["discriminator", "generator"],
    ),
}


def export_unverified(run: Path, out: Path, options: ExportOptions = PLAIN) -> list[Path]:
    """`export_run` without the verification by `transformers`, for tests of something else."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(conversion, "verify_if_possible", lambda directory, lines: None)
        return export_run(run, None, out, options)


def make_exports(root: Path, data: Path):
    """Name → (export, the run's parameters) of a variant, made on demand. transformers 5 has verified it."""

    @functools.cache
    def make(name):
        model, objective, options, folders = VARIANTS[name]
        run, params = make_run(root / "runs" / name, data, model, objective)
        written = export_run(run, None, root / name, options)
        assert (
            [path.name for path in written]
            == folders
            == sorted(path.name for path in (root / name).iterdir())
        )
        return root / name, params

    return make
