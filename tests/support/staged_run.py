"""A small run with stages, and its datasets."""

import shutil

from data_pipelines.corpus_builder import build_corpus
from data_pipelines.corpus_settings import CorpusSettings
from electra_jax.configuration.flags import load_config
from support import tiny_run

SHORT, LONG = 16, tiny_run.LENGTH


def make_corpora(root, data):
    """Datasets of one text in `root`: "short" with rows of 16, "long" and "second" with rows of 32, "other"
    with another tokenizer."""
    settings = CorpusSettings(
        train=[str(data / "train.txt")],
        validation=[str(data / "validation.txt")],
        tokenizer=str(data / "tokenizer_corpus"),
        sequence_length=SHORT,
        packing="documents",
    )
    build_corpus(str(root / "short"), settings)
    for name, path in (("long", "corpus"), ("second", "corpus"), ("other", "other")):
        shutil.copytree(data / path, root / name)


def configuration(corpora, stages=(), **changes):
    """A small run that starts with 8 rows of 16."""
    config = load_config("configs/debug.py")
    small = {
        "model.generator.num_layers": 1,
        "model.discriminator.num_layers": 1,
        "data.sequence_length": SHORT,
        "train.batch_size": 8,
        "train.num_steps": 12,
        "optimizer.warmup_steps": 3,
        "log.every": 4,
        "eval.every": 9,
        "checkpoint.every": 100,
        "log.progress": False,
        "checkpoint.keep": 20,
    }
    changes = {key.replace("__", "."): value for key, value in changes.items()}
    config.update_from_flattened_dict(
        tiny_run.VALUES | small | {"data.datasets": (str(corpora / "short"),), "stages": stages} | changes
    )
    return config.to_dict()


RAMP, LENGTHENED = 5, 9  # first steps of the second and third stage
MASKED = 0.3  # from the second stage on


def three_stages(corpora):
    """8 rows of 16, then 16 rows of 16 with more masks and another schedule, then 16 rows of 32 from two
    datasets."""
    return (
        (
            RAMP,
            {
                "train.batch_size": 16,
                "objective.mask_prob": MASKED,
                "optimizer.schedule": "warmup_constant_sqrt",
                "optimizer.warmup_steps": 0,
                "optimizer.decay_share": 0.5,
            },
        ),
        (
            LENGTHENED,
            {
                "data.sequence_length": LONG,
                "data.datasets": (str(corpora / "long"), str(corpora / "second")),
                "data.weights": (1.0, 2.0),
            },
        ),
    )
