"""Embedding models with random parameters, and their exports, for tests of these files."""

import functools

from data_pipelines.tokenizers.load import load_tokenizer
from electra_jax.conversion.export_task import export_task
from support import tiny_export
from support.tiny_task_exports import UNSAID, save_random

LENGTH = 24  # tokens in the longest text, fewer than the encoders have positions
WIDTHS = (8, 16)
# name: (config.model of the encoder, pooling, widths, dtype, class)
VARIANTS = {
    "electra": (tiny_export.electra_model(), "mean", WIDTHS, "float32", "ElectraModel"),
    # Like an imported BERT: no projection of the embeddings, and token types.
    "wide": (
        tiny_export.electra_model(
            embedding_size=32,
            generator=tiny_export.WIDE,
            discriminator=tiny_export.WIDE,
            type_vocab_size=2,
        ),
        "cls",
        (),
        "bfloat16",
        "ElectraModel",
    ),
    "relative": (tiny_export.relative_model(), "mean", (), "float32", "ElectraRelativeBiasModel"),
    "deberta": (tiny_export.deberta_model(), "cls", WIDTHS, "float32", "DebertaV2Model"),
    "modern": (tiny_export.modern_model(), "mean", (), "float32", "ModernBertModel"),
}


def make_embedder(directory, data, model, pooling, widths=()):
    """An embedding model, as a fine-tuning saves it."""
    return save_random(
        directory,
        load_tokenizer(str(data / "tokenizer_corpus")),
        model,
        "embedding",
        "published",
        pooling=pooling,
        task={"max_length": LENGTH, "matryoshka": list(widths), "metrics": ["ndcg@10"]},
        metrics={"ndcg@10": 0.8125},
    )


def make_exports(root, data):
    """Name → (embedding model, its export), made on demand. The export was verified."""

    @functools.cache
    def make(name):
        model, pooling, widths, dtype, _ = VARIANTS[name]
        source = make_embedder(root / "models" / name, data, model, pooling, widths)
        return source, export_task(source, root / name, dtype, UNSAID)

    return make
