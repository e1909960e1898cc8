"""Pairs of texts for embeddings, and a tokenizer for them: a token a letter."""

from data_pipelines.tasks.embedding_examples import EmbeddingExample
from support.tiny import SPECIAL


class Characters:
    """What encoding texts needs of a tokenizer."""

    special = SPECIAL

    @staticmethod
    def encode_batch(texts):
        return [[5 + ord(letter) % 100 for letter in text] for text in texts]


# "p" belongs to two queries, "a" has two paragraphs and is a negative of "b", "q" is a query and a paragraph
# of "a"; the last one has no second negative, and its first is the paragraph of another row.
EXAMPLES = [
    EmbeddingExample("a", "p", ("n", "m"), None),
    EmbeddingExample("b", "p", ("x", "a"), None),
    EmbeddingExample("a", "q", ("y", "o"), None),
    EmbeddingExample("q", "r", ("z", "n"), None),
    EmbeddingExample("d", "s", ("p", ""), None),
]
