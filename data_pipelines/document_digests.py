"""The digest of a document's text, which decides whether it is held out and whether it occurred before.

It does not depend on where a long document is cut.
"""

import hashlib
from collections.abc import Iterator

MAX_CHARS = 1 << 26  # of a text that are looked at, so that its pieces can wait for its end in bounded memory


class DocumentDigest:
    """SHA-256 of a text without the white space at its ends, or of its first MAX_CHARS characters."""

    def __init__(self):
        self._hash = hashlib.sha256()
        self._space = ""  # that belongs to the text if more follows
        self._chars = 0

    def reading(self, fragments: Iterator[str]) -> Iterator[str]:
        """The fragments of the text, which are added to the digest."""
        for fragment in fragments:
            self._add(fragment)
            yield fragment

    @property
    def is_full(self) -> bool:
        """Whether the rest of the text makes no difference."""
        return self._chars >= MAX_CHARS

    def digest(self) -> bytes:
        """The digest of what was read."""
        return self._hash.digest()

    def _add(self, fragment: str) -> None:
        if self.is_full:
            return
        text = self._space + fragment if self._chars else fragment.lstrip()
        kept = text.rstrip()[: MAX_CHARS - self._chars]
        self._space = text[len(kept) :] if kept else text
        self._chars += len(kept)
        self._hash.update(kept.encode("utf-8", "surrogatepass"))
