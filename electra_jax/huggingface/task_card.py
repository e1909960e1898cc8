"""The model card, README.md of an exported model that was fine-tuned: what finetuning/saved.py keeps about
it, in words."""

from pathlib import Path
from typing import Any

from electra_jax.huggingface.card import Publication, describe_shape, explain_code, with_trust
from electra_jax.huggingface.task_heads import class_name, has_added_layer
from electra_jax.models.config import EncoderConfig

PIPELINES = {
    "classification": "text-classification",
    "regression": "text-classification",
    "tagging": "token-classification",
    "question_answering": "question-answering",
}
WHAT = {
    "classification": "Says which of {count} labels a text, or a pair of texts, has: {labels}.",
    "regression": "Gives a text, or a pair of texts, a number.",
    "tagging": "Gives every word of a text one of {count} tags: {labels}.",
    "question_answering": "Finds the answer to a question in a text.",
}
MAX_LABELS = 50
_PATH = 'path = "."  # this directory, or the name it is published under'
_SEQUENCES = f"""from transformers import pipeline

{_PATH}
classify = pipeline("text-classification", model=path)
print(classify("A sentence."))
print(classify({{"text": "A sentence.", "text_pair": "Another one."}}))  # where the task is about pairs"""
# The pipeline guesses from spaces where a word starts, and gives the tag of another token than the word's
# first.
_TOKENS = f"""import torch
from transformers import AutoModelForTokenClassification, AutoTokenizer

{_PATH}
tokenizer = AutoTokenizer.from_pretrained(path)
model = AutoModelForTokenClassification.from_pretrained(path)
words = ["Every", "word", "of", "a", "sentence", "."]
tokens = tokenizer(words, is_split_into_words=True, return_tensors="pt")
with torch.no_grad():
    tags = model(**tokens).logits[0].argmax(dim=-1).tolist()
first = [tokens.word_ids().index(place) for place in range(len(words))]
print([(word, model.config.id2label[tags[token]]) for word, token in zip(words, first)])"""
# transformers 5 has no pipeline for questions.
_QUESTIONS = f"""import torch
from transformers import AutoModelForQuestionAnswering, AutoTokenizer

{_PATH}
tokenizer = AutoTokenizer.from_pretrained(path)
model = AutoModelForQuestionAnswering.from_pretrained(path)
tokens = tokenizer("Who wrote the letter?", "Her brother wrote it.", truncation="only_second", return_tensors="pt")
with torch.no_grad():
    output = model(**tokens)
can_answer = torch.tensor([index == 0 or part == 1 for index, part in enumerate(tokens.sequence_ids())])  # 0: no answer
start = output.start_logits[0].where(can_answer, torch.tensor(-1e9)).argmax()
end = start + output.end_logits[0].where(can_answer, torch.tensor(-1e9))[start:].argmax() if start else start
print(tokenizer.decode(tokens["input_ids"][0, start : end + 1]) if start else "no answer")"""
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
    """README.md of a fine-tuned model. `start` is the path of where it began: of its encoder, or, where
    `is_fresh`, of a model that only gave its shape."""
    family = "ELECTRA" if encoder.disentangled is None else "DeBERTa"
    kind, labels = description["task"]["kind"], description["labels"]
    shown = ", ".join(f"`{label}`" for label in labels[:MAX_LABELS]) + (
        ", …" if len(labels) > MAX_LABELS else ""
    )
    what = f"`{class_name(encoder, kind)}`. {WHAT[kind].format(count=len(labels), labels=shown)}"
    parts = [
        _front_matter(family, kind, publication),
        f"# {family}, fine-tuned on {_data(description['task'])}",
        what,
        explain_code(encoder),
        f"```python\n{with_trust(USE[kind], encoder)}\n```",
        describe_shape(encoder),
        _training(description, start, is_fresh),
        _data_license(publication),
        _figures(description["metrics"]),
        _notes(encoder, description),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _front_matter(family: str, kind: str, publication: Publication) -> str:
    stated = {
        "language": publication.language,
        "license": publication.license,
        "pipeline_tag": PIPELINES[kind],
    }
    tags = ("electra" if family == "ELECTRA" else "deberta-v2", kind.replace("_", "-"), "jax")
    return "\n".join(
        [
            "---",
            "library_name: transformers",
            *(f"{key}: {value}" for key, value in stated.items() if value),
            "tags:",
            *(f"- {tag}" for tag in dict.fromkeys(tags)),
            "---",
        ]
    )


def _data(task: dict[str, Any]) -> str:
    """The files or datasets that the task is trained on."""
    places = (task["train"] or task["source"]).split(",")
    return ", ".join(f"`{_name(place.strip().removeprefix('tfds:'))}`" for place in places)


def _name(path: str) -> str:
    """A path for people elsewhere: absolute ones mean nothing to them."""
    return Path(path).name if Path(path).is_absolute() else path


def _training(description: dict[str, Any], start: str, is_fresh: bool) -> str:
    config = description["config"]
    train, optimizer = config["train"], config["optimizer"]
    came_from = f"{'fresh weights in the shape' if is_fresh else 'the encoder'} of `{_name(start)}`"
    lines = [
        "## Training",
        "",
        f"Fine-tuned from {came_from} on {_data(description['task'])} with seed {description['seed']}: "
        f"epochs {train['num_epochs']}, rows of a batch {train['batch_size']}, at most "
        f"{description['task']['max_length']} tokens, peak learning rate {optimizer['learning_rate']:g}, "
        f"times {optimizer['layer_decay']:g} from layer to layer, dropout "
        f"{config['model']['head_dropout']:g} in the head and {config['model']['hidden_dropout']:g} in the "
        "encoder. `finetuning.json` holds every setting.",
    ]
    if description["settings"]:
        chosen = ", ".join(f"`{key}={value}`" for key, value in description["settings"].items())
        lines += ["", f"Chosen among several settings: {chosen}."]
    return "\n".join(lines)


def _data_license(publication: Publication) -> str:
    return f"Licence of the task's data: {publication.data_license}." if publication.data_license else ""


def _figures(metrics: dict[str, float]) -> str:
    rows = [f"| {name} | {value:.4f} |" for name, value in metrics.items()]
    return "\n".join(
        [
            "## Held-out examples",
            "",
            "| | |",
            "|---|---|",
            *rows,
            "",
            f"Of its run's seeds and settings the model with the best {next(iter(metrics))}: where there "
            "were several, the figures are better than on new text.",
        ]
    )


def _notes(encoder: EncoderConfig, description: dict[str, Any]) -> str:
    kind, lines = (
        description["task"]["kind"],
        ["## Notes", "", "The model repeats what its data says, errors included."],
    )
    if has_added_layer(encoder, description):
        lines.append(
            "It was trained with ELECTRA's own head, state of [CLS] → dropout → dense, while the class "
            "here has another layer in between. That layer changes nothing: its units are the logits z and "
            "−z, and gelu(z) − gelu(−z) = z. `classifier_dropout` is 0, since behind it dropout would "
            "strike the logits themselves: for further fine-tuning leave it so, or start with a new head."
        )
    if kind == "regression":
        lines.append("What the pipeline calls `score` is the number itself.")
    elif kind == "tagging":
        lines.append(
            "The words of its data were tokenized one by one, and the first token of a word carries the tag; what "
            'other tokens get means nothing. `pipeline("token-classification", model=path, aggregation_strategy='
            '"first")` takes whole texts, but guesses where words start.'
        )
    elif kind == "question_answering":
        lines.append(
            f"A context that with its question has more than {description['task']['max_length']} tokens was cut into "
            'overlapping windows, and should be here. transformers 4 also has `pipeline("question-answering", '
            "model=path)`, which does that."
        )
    return "\n".join(lines)
