"""Fine-tuned models with random parameters, and their exports, for tests of these files."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from data_pipelines.tokenizers.load import load_tokenizer
from electra_jax.conversion.export_task import export_task
from electra_jax.finetuning.model_files import save_model
from electra_jax.finetuning.models import TaskModel
from electra_jax.huggingface.card_parts import Publication
from electra_jax.models.config import make_pretraining_config
from electra_jax.models.inputs import SpecialTokens
from electra_jax.training.state import unbox
from support import tiny_export
from support.tiny_export import WIDE

LABELS = {
    "classification": ["low", "middle", "high"],
    "regression": [],
    "tagging": ["NOUN", "VERB", "ADJ", "X"],
    "question_answering": [],
    "embedding": [],
}
NUM_OUTPUTS = {
    "classification": 3,
    "regression": 1,
    "tagging": 4,
    "question_answering": 2,
    "embedding": 32,
}
SCALE = 5.0
UNSAID = Publication(None, None, None)
ELECTRA, RELATIVE, DEBERTA = tiny_export.electra_model, tiny_export.relative_model, tiny_export.deberta_model
MODERN = tiny_export.modern_model
# name: (config.model of the encoder, task type, head, dtype, class)
VARIANTS = {
    "electra_classification": (
        ELECTRA(),
        "classification",
        "published",
        "float32",
        "ElectraForSequenceClassification",
    ),
    "electra_classification_inner": (
        ELECTRA(),
        "classification",
        "transformers",
        "float32",
        "ElectraForSequenceClassification",
    ),
    "electra_regression": (
        ELECTRA(),
        "regression",
        "published",
        "float32",
        "ElectraForSequenceClassification",
    ),
    "electra_regression_inner": (
        ELECTRA(),
        "regression",
        "transformers",
        "float32",
        "ElectraForSequenceClassification",
    ),
    "electra_tagging": (ELECTRA(), "tagging", "published", "float32", "ElectraForTokenClassification"),
    "electra_tagging_inner": (
        ELECTRA(),
        "tagging",
        "transformers",
        "float32",
        "ElectraForTokenClassification",
    ),
    "electra_questions": (
        ELECTRA(),
        "question_answering",
        "transformers",
        "float32",
        "ElectraForQuestionAnswering",
    ),
    # Like an imported BERT, without a projection of the embeddings; trained in bfloat16.
    "electra_wide": (
        ELECTRA(embedding_size=32, generator=WIDE, discriminator=WIDE, dtype="bfloat16"),
        "classification",
        "published",
        "float32",
        "ElectraForSequenceClassification",
    ),
    "electra_bfloat16": (
        ELECTRA(),
        "regression",
        "published",
        "bfloat16",
        "ElectraForSequenceClassification",
    ),
    "electra_typeless": (
        ELECTRA(type_vocab_size=0),
        "tagging",
        "published",
        "float32",
        "ElectraForTokenClassification",
    ),
    "relative_classification": (
        RELATIVE(),
        "classification",
        "published",
        "float32",
        "ElectraRelativeBiasForSequenceClassification",
    ),
    "relative_questions": (
        RELATIVE(positions=False, type_vocab_size=0),
        "question_answering",
        "transformers",
        "float32",
        "ElectraRelativeBiasForQuestionAnswering",
    ),
    "deberta_classification": (
        DEBERTA(),
        "classification",
        "published",
        "float32",
        "DebertaV2ForSequenceClassification",
    ),
    "deberta_regression": (
        DEBERTA(),
        "regression",
        "transformers",
        "float32",
        "DebertaV2ForSequenceClassification",
    ),
    "deberta_tagging": (DEBERTA(), "tagging", "published", "float32", "DebertaV2ForTokenClassification"),
    "deberta_questions": (
        DEBERTA(),
        "question_answering",
        "published",
        "float32",
        "DebertaV2ForQuestionAnswering",
    ),
    "modern_mean": (
        MODERN(),
        "classification",
        "published",
        "float32",
        "ModernBertForSequenceClassification",
    ),
    "modern_tagging": (MODERN(), "tagging", "published", "float32", "ModernBertForTokenClassification"),
    "modern_questions": (
        MODERN(),
        "question_answering",
        "published",
        "float32",
        "ModernBertForQuestionAnswering",
    ),
    "deberta_bfloat16": (
        DEBERTA(),
        "classification",
        "published",
        "bfloat16",
        "DebertaV2ForSequenceClassification",
    ),
}
# What the heads for whole texts read, where it is not the state of [CLS].
POOLING = {"modern_mean": "mean"}
# Exports with an inner layer that the trained head does not have.
ADDED = (
    "electra_classification",
    "electra_regression",
    "electra_wide",
    "electra_bfloat16",
    "relative_classification",
)


def make_model(directory, data, model, kind, head, labels=None, pooling="cls"):
    """A fine-tuned model with random parameters; biases and LayerNorms differ from their initial values."""
    return save_random(
        directory,
        load_tokenizer(str(data / "tokenizer_corpus")),
        model,
        kind,
        head,
        labels=labels,
        pooling=pooling,
    )


def save_random(directory, tokenizer, model, kind, head, labels=None, pooling="cls", task=None, **more):
    """As `make_model`, with any tokenizer; `task` changes config.task, `more` is added to the description."""
    encoder = make_pretraining_config(model).discriminator
    labels = LABELS[kind] if labels is None else labels
    task_model = TaskModel(
        encoder, SpecialTokens.from_ids(tokenizer.special), kind, len(labels) or NUM_OUTPUTS[kind], head, 0.2
    )
    shapes = jax.eval_shape(
        lambda: unbox(task_model.init(jax.random.key(0), jnp.ones((1, 8), jnp.int32), False)["params"])
    )
    leaves, tree = jax.tree.flatten_with_path(shapes)
    source = np.random.default_rng(0)
    params = jax.tree.unflatten(
        tree,
        [
            np.float32(path[-1].key == "scale") + 0.1 * source.normal(size=leaf.shape).astype("f4")
            for path, leaf in leaves
        ],
    )
    task = {
        "kind": kind,
        "source": "",
        "train": "/some/where/train.tsv",
        "label_scale": SCALE,
        "max_length": 128,
        "max_query_length": 16,
        "max_train_examples": 0,
        "doc_stride": 8,
        "null_threshold": 0.0,
        "metrics": ["accuracy"],
        "label": "",
        "negatives": "",
        "temperature": 0.05,
        "matryoshka": [],
        **(task or {}),
    }
    config = {
        "task": task,
        "model": {"head": head, "head_dropout": 0.2, "hidden_dropout": 0.1, "pooling": pooling},
        "optimizer": {"learning_rate": 1e-4, "layer_decay": 0.8},
        "train": {"num_epochs": 3, "batch_size": 32},
    }
    description = {
        "task": task,
        "labels": labels,
        "config": config,
        "start": "random:/some/where/base",
        "seed": 7,
        "settings": {"optimizer.learning_rate": 1e-4},
        "metrics": {"accuracy": 0.8125},
    }
    save_model(directory, encoder, description | more, tokenizer, params)
    return directory


def make_exports(root, data):
    """Name → (fine-tuned model, its export), made on demand. The export was verified with transformers 5."""

    @functools.cache
    def make(name):
        model, kind, head, dtype, _ = VARIANTS[name]
        pooling = POOLING.get(name, "cls")
        source = make_model(root / "models" / name, data, model, kind, head, pooling=pooling)
        return source, export_task(source, root / name, dtype, UNSAID)

    return make
