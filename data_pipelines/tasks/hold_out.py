"""Hold out a part of the training examples to validate on."""

from typing import Any

import numpy as np

from data_pipelines.tasks.datasets import split_place
from data_pipelines.tasks.embedding_examples import EmbeddingExample
from data_pipelines.tasks.examples import TaggedExample
from data_pipelines.tasks.questions import Question

VALIDATION = "validation"


def with_validation(splits: dict[str, list[Any]], fraction: float) -> dict[str, list[Any]]:
    """The same splits with the share `fraction` of "train" moved to "validation".

    The examples are chosen at random, the same ones in every call. Those with the same text or pair of texts
    in either order, questions about the same context, and pairs for embeddings that have a text in common,
    also through other pairs, stay together. Both splits keep the order of "train".

    Raises:
      ValueError: `fraction` is not between 0 and 1, there is a validation split already, or the training
        split is too small.
    """
    if not 0 < fraction < 1:
        raise ValueError(
            f"config.task.validation_fraction: got {fraction}, expected a share between 0 and 1, such as 0.1"
        )
    examples = splits.get("train", [])
    existing = [split for split in splits if split.startswith((VALIDATION, "dev"))]
    if existing:
        raise ValueError(
            f"config.task.validation_fraction: got {fraction}, but the data has the split {existing[0]}, "
            "expected one of them; give a fraction of 0"
        )
    is_embedding = bool(examples) and isinstance(examples[0], EmbeddingExample)
    texts = _joined(examples) if is_embedding else list(map(_text_of, examples))
    numbers = {text: number for number, text in enumerate(dict.fromkeys(texts))}
    if len(numbers) < 2:
        raise ValueError(
            f"config.task.validation_fraction: got {fraction}, but the training split has {len(numbers)} "
            "different texts, expected 2 or more to divide"
        )
    num_held_out = min(max(1, round(fraction * len(numbers))), len(numbers) - 1)
    held_out = set(np.random.default_rng(0).permutation(len(numbers))[:num_held_out].tolist())
    divided: dict[str, list[Any]] = {"train": [], VALIDATION: []}
    for example, text in zip(examples, texts, strict=True):
        divided[VALIDATION if numbers[text] in held_out else "train"].append(example)
    divided |= {split: rest for split, rest in splits.items() if split != "train"}
    return {split: divided[split] for split in sorted(divided, key=split_place)}


def _text_of(example: Any) -> Any:
    if isinstance(example, Question):
        return example.context
    if isinstance(example, TaggedExample):
        return example.words
    # A pair is also trained on in the other order: as a row of a file, or by config.task.swaps_pairs.
    return (example.text,) if example.pair is None else tuple(sorted((example.text, example.pair)))


def _joined(examples: list[EmbeddingExample]) -> list[str]:
    """For each example one text, the same for all whose texts are joined by pairs."""
    other: dict[str, str] = {}  # text → one that it is joined with; the last of such a chain is its own

    def last(text: str) -> str:
        while (after := other.setdefault(text, text)) != text:
            other[text] = other[after]  # halves the chain
            text = after
        return text

    for example in examples:
        other[last(example.text)] = last(example.text if example.pair is None else example.pair)
    return [last(example.text) for example in examples]
