"""Parts of the model card of an exported embedding model."""

from typing import Any

from electra_jax.huggingface.card_parts import PATH_LINE, with_trust
from electra_jax.huggingface.embedding_files import widths_of
from electra_jax.huggingface.task_heads import Description, longest_row, pooling_of
from electra_jax.models.config import EncoderConfig

LIBRARY = "sentence-transformers"
TAGS = ("sentence-transformers", "feature-extraction")
_WITH_SENTENCE_TRANSFORMERS = f"""from sentence_transformers import SentenceTransformer

{PATH_LINE}
model = SentenceTransformer(path)
vectors = model.encode(["Who wrote the letter?", "Her brother wrote the letter.", "It rained."])
print(vectors.shape)
print(model.similarity(vectors[:1], vectors[1:]))"""
_WITH_TRANSFORMERS = f"""import torch
from transformers import AutoModel, AutoTokenizer

{PATH_LINE}
tokenizer = AutoTokenizer.from_pretrained(path)
model = AutoModel.from_pretrained(path)
texts = ["Who wrote the letter?", "Her brother wrote the letter.", "It rained."]
tokens = tokenizer(texts, padding=True, truncation=True, max_length={{length}}, return_tensors="pt")
with torch.no_grad():
    states = model(**tokens).last_hidden_state
{{pooling}}
vectors = torch.nn.functional.normalize(vectors)
print(vectors[:1] @ vectors[1:].T)"""
# config.model.pooling → (Python that makes `vectors` of `states`, what it is for people).
_POOLING = {
    "cls": ("vectors = states[:, 0]", "the state of [CLS]"),
    "mean": (
        'mask = tokens["attention_mask"][:, :, None]\nvectors = (states * mask).sum(dim=1) / mask.sum(dim=1)',
        "the mean of the states of all tokens, [CLS] and [SEP] among them",
    ),
}


def describe_vectors(encoder: EncoderConfig, description: Description) -> str:
    """What the model computes, in sentences."""
    _, pooling = _POOLING[pooling_of(description)]
    lines = (
        f"Turns a text into {encoder.hidden_size} numbers: {pooling}, divided by its length. It is "
        "trained to give texts with similar meanings similar vectors; their similarity is the cosine. A text "
        f"has at most {longest_row(encoder, description)} tokens, of longer ones the end is cut off."
    )
    if widths := widths_of(description):
        first = " or ".join(map(str, widths))
        lines += (
            f" The first {first} numbers of a vector are trained to be a vector, too (Matryoshka "
            f"representation learning): `SentenceTransformer(path, truncate_dim={min(widths)})` computes "
            "only these. Their length is no longer 1, which the cosine does not depend on; `encode(…, "
            "normalize_embeddings=True)` makes it 1."
        )
    return lines


def describe_loss(task: dict[str, Any]) -> str:
    """How the vectors were trained, in a sentence."""
    negatives = " and its own hard negatives" if task["negatives"] else ""
    return (
        "The loss is contrastive (InfoNCE): of each text, the text that belongs to it is to be nearer than "
        f"all others of the batch{negatives}; similarities are divided by the temperature "
        f"{task['temperature']:g}."
    )


def usage(encoder: EncoderConfig, description: Description) -> str:
    """Python that computes vectors, with sentence-transformers and with transformers alone, in Markdown."""
    code, _ = _POOLING[pooling_of(description)]
    alone = _WITH_TRANSFORMERS.format(length=longest_row(encoder, description), pooling=code)
    return "\n\n".join(
        [
            f"```python\n{with_trust(_WITH_SENTENCE_TRANSFORMERS, encoder)}\n```",
            "The same without sentence-transformers:",
            f"```python\n{with_trust(alone, encoder)}\n```",
        ]
    )
