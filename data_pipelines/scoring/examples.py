"""Examples that a classifier learns from: a sample of documents in bounded memory."""

import hashlib
import heapq
from collections.abc import Iterable
from typing import NamedTuple

HELD_OUT_SHARE = 0.1  # of the examples, for measuring the classifier
MIN_EXAMPLES = 10  # of each side


class Examples(NamedTuple):
    """Documents of one side."""

    trained: list[str]
    held_out: list[str]
    num_read: int  # documents that there were, equal ones counted once as far as they were kept


def choose_examples(texts: Iterable[str], max_chars: int) -> Examples:
    """A uniform sample of different texts, with at most `max_chars` characters together, and the tenth of it
    that is held out. Hashes choose: the texts with the smallest, up to the first that does not fit. Neither
    depends on the order of the texts. Memory: of the sample, and of one more text.

    Raises:
      ValueError: fewer than MIN_EXAMPLES different texts fit.
    """
    held: list[tuple[int, str]] = []  # the largest number first, which is what a heap of negatives gives
    known: set[int] = set()
    limit = -(1 << 64)  # below all numbers; then the largest that was given up
    size = num_read = 0
    for text in texts:
        digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
        number = -int.from_bytes(digest[:8], "big")
        if number in known:
            continue
        num_read += 1
        if number <= limit:
            continue  # a short text in the room of a long one would depend on which came first
        heapq.heappush(held, (number, text))
        known.add(number)
        size += len(text)
        while size > max_chars:
            limit, text = heapq.heappop(held)
            known.discard(limit)
            size -= len(text)
    if len(held) < MIN_EXAMPLES:
        raise ValueError(
            f"got {len(held)} different examples of {num_read} in {max_chars:,} characters, expected at "
            f"least {MIN_EXAMPLES}; give more documents, shorter ones, or raise --max_training_chars."
        )
    ordered = [text for _, text in sorted(held, reverse=True)]
    num_held_out = max(1, round(HELD_OUT_SHARE * len(ordered)))
    return Examples(ordered[num_held_out:], ordered[:num_held_out], num_read)
