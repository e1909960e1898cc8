"""Parts of a model card: front matter, Python that loads the model, its shape, tables."""

import json
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from electra_jax.huggingface.configuration import RELATIVE_BIAS_FILE
from electra_jax.huggingface.families import family_of
from electra_jax.models.config import EncoderConfig

PATH_LINE = 'path = "."  # this directory, or the name it is published under'

# Role → lines of Python that use the loaded model.
USE = {
    "discriminator": (
        'tokens = tokenizer("A sentence.", return_tensors="pt")',
        "states = model(**tokens).last_hidden_state",
    ),
    "generator": (
        'fill = pipeline("fill-mask", model=model, tokenizer=tokenizer)',
        'print(fill("The [MASK] of a sentence."))',
    ),
}


class Publication(NamedTuple):
    """What only the publisher knows; None: not stated."""

    license: str | None  # of the model
    data_license: str | None  # of the training text, or of the task's data
    language: str | None  # of the text; several between commas


def front_matter(
    publication: Publication, pipeline_tag: str | None, tags: Sequence[str], library: str = "transformers"
) -> str:
    """The YAML header that the Hugging Face Hub reads. Several languages are between commas."""
    stated = {
        "language": _languages(publication.language),
        "license": _yaml_string(publication.license),
        "pipeline_tag": pipeline_tag,
    }
    lines = ["---", f"library_name: {library}"]
    lines += [f"{key}: {value}" for key, value in stated.items() if value]
    return "\n".join([*lines, "tags:", *(f"- {tag}" for tag in tags), "---"])


def _languages(text: str | None) -> str:
    """One value of YAML, a list of several, or "" without any."""
    names = [_yaml_string(name.strip()) for name in (text or "").split(",") if name.strip()]
    return f"[{', '.join(names)}]" if len(names) > 1 else "".join(names)


def _yaml_string(text: str | None) -> str:
    """The text between quotation marks, "" without any: YAML takes a bare `no`, Norwegian, for false."""
    return json.dumps(text, ensure_ascii=False) if text else ""


def usage_code(role: str) -> str:
    """Python that loads a pre-trained model from `path` and runs it."""
    names = {
        "discriminator": "AutoModel, AutoTokenizer",
        "generator": "AutoModelForMaskedLM, AutoTokenizer, pipeline",
    }[role]
    return "\n".join(
        [
            f"from transformers import {names}",
            PATH_LINE,
            "tokenizer = AutoTokenizer.from_pretrained(path)",
            f"model = {names.partition(',')[0]}.from_pretrained(path)",
            *USE[role],
        ]
    )


def explain_code(encoder: EncoderConfig) -> str:
    """Why a model comes with its own code; empty if it does not."""
    if encoder.relative_bias is None:
        return ""
    return (
        f"**It needs the code in `{RELATIVE_BIAS_FILE}`**, and therefore `trust_remote_code=True`: its "
        "attention adds to each score a learned bias for the distance between the two tokens, which no "
        "ELECTRA class in `transformers` does. The file adds the bias to ELECTRA's own classes."
    )


def with_trust(code: str, encoder: EncoderConfig) -> str:
    """Python that loads a model from `path`, with `trust_remote_code=True` if the model comes with code."""
    if encoder.relative_bias is None:
        return code
    for call in ("from_pretrained(path", "model=path", "SentenceTransformer(path"):
        code = code.replace(call, f"{call}, trust_remote_code=True")
    return code


def describe_shape(encoder: EncoderConfig) -> str:
    """One sentence. Without a table of positions it names no length: a card tells the rows of training."""
    has_table = family_of(encoder).has_position_table
    positions = f", up to {encoder.max_position_embeddings} positions" if has_table else ""
    return (
        f"{encoder.num_layers} layers of {encoder.hidden_size} with {encoder.num_heads} heads, "
        f"feed-forward {encoder.intermediate_size}, embeddings of {encoder.embedding_size} "
        f"for a vocabulary of {encoder.vocab_size:,}{positions}."
    )


def metrics_table(metrics: Iterable[tuple[str, float]]) -> list[str]:
    """Lines of a table of (name, value)."""
    return ["| | |", "|---|---|", *(f"| {name} | {value:.4f} |" for name, value in metrics)]
