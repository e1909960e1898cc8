"""A few examples of everything that is dropped: the same ones whatever the order of the documents."""

import hashlib
import heapq
from collections.abc import Callable, Mapping
from typing import Any

NUM_EXAMPLES = 3  # of each reason
MAX_CHARS = 300  # of a text


class Examples:
    """Of each reason the records whose hashes are the smallest: as good as drawn at random.

    Args:
      prepare: what is done to their texts before they are shortened.
    """

    def __init__(self, prepare: Callable[[str], str] = str):
        self._prepare = prepare
        self.chosen: dict[str, list[list]] = {}  # reason → [hash, record] with a shortened text, as JSON

    def add(self, reason: str, record: Mapping[str, Any]) -> None:
        """Consider a record."""
        name = f"{record['source']}:{record['document']}:{record['text']}"
        key = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
        chosen = self.chosen.setdefault(reason, [])
        if len(chosen) < NUM_EXAMPLES or key < chosen[-1][0]:
            text = shortened(self._prepare(record["text"]))
            self.merge({reason: [[key, dict(record) | {"text": text}]]})

    def merge(self, other: Mapping[str, list[list]]) -> None:
        """Consider the examples of others."""
        for reason, chosen in other.items():
            both = [*self.chosen.get(reason, []), *chosen]
            self.chosen[reason] = heapq.nsmallest(NUM_EXAMPLES, both, key=lambda item: item[0])


def shortened(text: str) -> str:
    """At most MAX_CHARS characters of a text."""
    return text if len(text) <= MAX_CHARS else f"{text[:MAX_CHARS]}…"
