"""The model card (README.md) of an exported fine-tuned model, from its description
(finetuning/model_files.py)."""

from typing import Any

from electra_jax.huggingface import embedding_card
from electra_jax.huggingface.card_parts import (
    PATH_LINE,
    Publication,
    describe_shape,
    explain_code,
    front_matter,
    metrics_table,
    with_trust,
)
from electra_jax.huggingface.embedding_files import EMBEDDING
from electra_jax.huggingface.families import family_of
from electra_jax.huggingface.public_names import name_of
from electra_jax.huggingface.task_heads import class_name, has_added_layer, longest_row
from electra_jax.models.config import EncoderConfig

# Task type → pipeline of `transformers`.
PIPELINES = {
    "classification": "text-classification",
    "regression": "text-classification",
    "tagging": "token-classification",
    "question_answering": "question-answering",
    EMBEDDING: "sentence-similarity",
}
WHAT = {
    "classification": "Assigns one of {count} labels to a text or a pair of texts: {labels}.",
    "regression": "Predicts a number for a text or a pair of texts.",
    "tagging": "Assigns one of {count} tags to every word of a text: {labels}.",
    "question_answering": "Finds the answer to a question in a text.",
}
MAX_LABELS = 50  # labels that a card lists
_SEQUENCES = f"""from transformers import pipeline

{PATH_LINE}
classify = pipeline("text-classification", model=path)
print(classify("A sentence."))
print(classify({{"text": "A sentence.", "text_pair": "Another one."}}))  # if the task is about pairs"""
# Not the pipeline: it guesses from spaces where a word starts, and does not take the tag of its first token.
_TOKENS = f"""import torch
from transformers import AutoModelForTokenClassification, AutoTokenizer

{PATH_LINE}
tokenizer = AutoTokenizer.from_pretrained(path)
model = AutoModelForTokenClassification.from_pretrained(path)
words = ["Every", "word", "of", "a", "sentence", "."]
tokens = tokenizer(words, is_split_into_words=True, return_tensors="pt")
with torch.no_grad():
    tags = model(**tokens).logits[0].argmax(dim=-1).tolist()
first = [tokens.word_ids().index(place) for place in range(len(words))]
print([(word, model.config.id2label[tags[token]]) for word, token in zip(words, first)])"""
# For tokenizers that spell a word after a blank in other pieces than at the start of a text.
_SPACED = """spaced = [words[0], *(" " + word for word in words[1:])]  # as in running text
tokens = tokenizer(spaced,"""
# transformers 5 has no pipeline for questions.
_QUESTIONS = f"""import torch
from transformers import AutoModelForQuestionAnswering, AutoTokenizer

{PATH_LINE}
tokenizer = AutoTokenizer.from_pretrained(path)
model = AutoModelForQuestionAnswering.from_pretrained(path)
question, context = "Who wrote the letter?", "Her brother wrote it."
tokens = tokenizer(question, context, truncation="only_second", return_tensors="pt")
with torch.no_grad():
    output = model(**tokens)
# Answers are in the context; position 0 means "no answer".
can_answer = torch.tensor([index == 0 or part == 1 for index, part in enumerate(tokens.sequence_ids())])
start = output.start_logits[0].where(can_answer, torch.tensor(-1e9)).argmax()
end = start + output.end_logits[0].where(can_answer, torch.tensor(-1e9))[start:].argmax() if start else start
print(tokenizer.decode(tokens["input_ids"][0, start : end + 1]) if start else "no answer")"""
# Task type → Python that loads the model from `path` and runs it.
USE = {
    "classification": _SEQUENCES,
    "regression": _SEQUENCES,
    "tagging": _TOKENS,
    "question_answering": _QUESTIONS,
}


def make_task_card(
    encoder: EncoderConfig,
    description: dict[str, Any],
    publication: Publication,
    *,
    start: str,
    is_fresh: bool,
) -> str:
    """README.md of a fine-tuned model.

    Args:
      encoder: its shape.
      description: what fine-tuning keeps about it.
      publication: what the publisher states.
      start: path of the pre-trained encoder.
      is_fresh: whether `start` gave only the encoder's shape, and its weights were newly initialised.
    """
    family = family_of(encoder)
    task_type = description["task"]["kind"]
    is_embedding = task_type == EMBEDDING
    tags = embedding_card.TAGS if is_embedding else (task_type.replace("_", "-"),)
    library = embedding_card.LIBRARY if is_embedding else "transformers"
    parts = [
        front_matter(publication, PIPELINES[task_type], (family.tag, *tags, "jax"), library),
        f"# {family.name}, fine-tuned on {_data(description['task'])}",
        f"`{class_name(encoder, task_type)}`. {_what(encoder, description)}",
        explain_code(encoder),
        _usage(encoder, description),
        describe_shape(encoder),
        _training(encoder, description, start, is_fresh),
        _data_license(publication),
        _metrics(description["metrics"]),
        _notes(encoder, description),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _what(encoder: EncoderConfig, description: dict[str, Any]) -> str:
    """What the model does."""
    task_type, labels = description["task"]["kind"], description["labels"]
    if task_type == EMBEDDING:
        return embedding_card.describe_vectors(encoder, description)
    shown = ", ".join(f"`{label}`" for label in labels[:MAX_LABELS])
    shown += ", …" if len(labels) > MAX_LABELS else ""
    return WHAT[task_type].format(count=len(labels), labels=shown)


def _usage(encoder: EncoderConfig, description: dict[str, Any]) -> str:
    """Python that runs the model, in Markdown."""
    if description["task"]["kind"] == EMBEDDING:
        return embedding_card.usage(encoder, description)
    code = USE[description["task"]["kind"]]
    if _has_spaced_words(description):
        code = code.replace("tokens = tokenizer(words,", _SPACED)
    return f"```python\n{with_trust(code, encoder)}\n```"


def _has_spaced_words(description: dict[str, Any]) -> bool:
    return bool(description.get("word_separator"))


def _data(task: dict[str, Any]) -> str:
    """The files or datasets that the task is trained on."""
    places = (task["train"] or task["source"]).split(",")
    return ", ".join(f"`{name_of(place).removeprefix('tfds:')}`" for place in places)


def _training(encoder: EncoderConfig, description: dict[str, Any], start: str, is_fresh: bool) -> str:
    config = description["config"]
    train, optimizer = config["train"], config["optimizer"]
    origin = f"{'fresh weights in the shape' if is_fresh else 'the encoder'} of `{name_of(start)}`"
    limit = description["task"]["max_train_examples"]
    part = f" at most {limit:,} examples of" if limit else ""
    is_embedding = description["task"]["kind"] == EMBEDDING
    of_head = "" if is_embedding else f"{config['model']['head_dropout']:g} in the head and "
    lines = [
        "## Training",
        "",
        f"Fine-tuned from {origin} on{part} {_data(description['task'])} with seed {description['seed']}: "
        f"{train['num_epochs']} epochs, batches of {train['batch_size']} rows, at most "
        f"{longest_row(encoder, description)} tokens, peak learning rate {optimizer['learning_rate']:g}, "
        f"multiplied by {optimizer['layer_decay']:g} per layer from the top down, dropout "
        f"{of_head}{config['model']['hidden_dropout']:g} in the encoder. `finetuning.json` has all settings.",
    ]
    if is_embedding:
        lines += ["", embedding_card.describe_loss(description["task"])]
    if description["settings"]:
        chosen = ", ".join(f"`{key}={value}`" for key, value in description["settings"].items())
        lines += ["", f"Chosen among several settings: {chosen}."]
    return "\n".join(lines)


def _data_license(publication: Publication) -> str:
    return f"Licence of the task's data: {publication.data_license}." if publication.data_license else ""


def _metrics(metrics: dict[str, float]) -> str:
    note = (
        f"This is the model with the best {next(iter(metrics))} among the seeds and settings of its run. If "
        "there were several, the metrics are optimistic: expect lower ones on new text."
    )
    return "\n".join(["## Held-out examples", "", *metrics_table(metrics.items()), "", note])


def _notes(encoder: EncoderConfig, description: dict[str, Any]) -> str:
    task = description["task"]
    lines = ["## Notes", "", "The model reproduces errors of its training data."]
    if has_added_layer(encoder, description):
        lines.append(
            "It was trained with ELECTRA's own head, state of [CLS] → dropout → dense, while this class has "
            "another layer in between. That layer changes nothing: its units are the logits z and −z, and "
            "gelu(z) − gelu(−z) = z. `classifier_dropout` is 0, because after this layer dropout would drop "
            "whole logits: for further fine-tuning keep it at 0, or start with a new head."
        )
    if task["kind"] == "regression":
        lines.append("What the pipeline calls `score` is the predicted number.")
    elif task["kind"] == "tagging":
        lines.append(
            "In training, words were tokenized one by one, and the first token of a word has its tag; the "
            "predictions at other tokens mean nothing. "
            '`pipeline("token-classification", model=path, aggregation_strategy="first")` takes whole texts, '
            "but guesses where words start."
        )
        if _has_spaced_words(description):
            lines.append(
                "All words but the first of a sentence had a blank before them, since the tokenizer spells a "
                "word after a blank in other pieces than at the start of a text."
            )
    elif task["kind"] == "question_answering":
        lines.append(
            f"In training, contexts were cut into overlapping windows if they had more than "
            f"{task['max_length']} tokens together with the question; do the same here. In transformers 4, "
            '`pipeline("question-answering", model=path)` does it.'
        )
    return "\n".join(lines)
