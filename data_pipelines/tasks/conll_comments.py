"""Tell the comments of CoNLL files from sentences whose first word is "#" or begins with it.

A line that starts with "#" is a comment only before a sentence's first word. With another number of columns
than the words it always is. With as many it is one if its first column is "#" alone (or is the same in all
sentences), and one of these holds:

    it is written "# key = value"
    it has tabs, and the words have blanks between their columns; or a blank follows the "#" between tabs
    its tag is not a tag of any word
    every sentence begins with such a line, and there are at least three
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

SETTING = re.compile(r"#\s*[\w.:-]+\s*=(\s|$)")
MIN_SENTENCES = 3


class Line(NamedTuple):
    """A line of a column file."""

    number: int  # from 1
    text: str
    fields: list[str]


class CommentFinder:
    """Finds the comments of one file."""

    def __init__(self, blocks: Sequence[Sequence[Line]], width: int, label: int, *, has_tabs: bool):
        """Collect what the whole file tells.

        Args:
          blocks: the lines of each sentence, at least one.
          width: number of columns of the words.
          label: the column of the tags, which may be missing.
          has_tabs: whether tabs separate the columns of the words.
        """
        self._width, self._label, self._has_tabs = width, label, has_tabs
        starts = {(block[0].fields[0], len(block[0].fields)) for block in blocks}
        has_one_start = len(blocks) >= MIN_SENTENCES and len(starts) == 1
        self._start_of_all = next(iter(starts)) if has_one_start else None
        words = [line for block in blocks for line in _behind_hashes(block)]
        self._words_have_tabs = any("\t" in line.text for line in words)
        self._tags = {line.fields[label] for line in words if len(line.fields) == width and label < width}

    def first_word(self, block: Sequence[Line]) -> int:
        """How many lines of a sentence are comments before its first word."""
        is_word = (not self._is_comment(line) for line in block)
        return next((at for at, is_first in enumerate(is_word) if is_first), len(block))

    def is_doubtful(self, comment: Line) -> bool:
        """Whether a comment could as well be a word, from its form."""
        return len(comment.fields) == self._width and not self._has_form_of_comment(comment)

    def _is_comment(self, line: Line) -> bool:
        if not line.text.startswith("#"):
            return False
        if len(line.fields) != self._width or self._has_form_of_comment(line):
            return True
        is_hash = not line.fields[0].strip("#")
        is_everywhere = (line.fields[0], self._width) == self._start_of_all
        if is_hash and is_everywhere:
            return True
        if not is_hash and not is_everywhere:
            return False
        tag = line.fields[self._label] if self._label < self._width else "#"
        return bool(self._tags) and tag not in self._tags and tag != "#"  # "#" can be a part of speech

    def _has_form_of_comment(self, line: Line) -> bool:
        if self._has_tabs:
            return line.fields[0].startswith("# ")
        has_other_separators = "\t" in line.text and not self._words_have_tabs
        return SETTING.match(line.text) is not None or (line.fields[0] == "#" and has_other_separators)


def _behind_hashes(block: Sequence[Line]) -> Sequence[Line]:
    """The lines after those at the start that begin with "#"."""
    first = next((at for at, line in enumerate(block) if not line.text.startswith("#")), len(block))
    return block[first:]
