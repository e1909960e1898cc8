"""One document after the other: changed by the options for text, then kept, or dropped with a reason.

The order is fixed: Unicode, language, Gopher's rules, C4's lines and pages, evaluation text, personal data.
Duplicates, which need all documents, are found later (matching.py).
"""

import re
from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

from data_pipelines.cleaning.contamination import Index
from data_pipelines.cleaning.languages import identify
from data_pipelines.cleaning.masking import mask
from data_pipelines.cleaning.rules import DOCUMENT_RULES, REST_RULES, broken_rule, remove_lines
from data_pipelines.cleaning.settings import C4_BAD_WORDS, CleaningSettings
from data_pipelines.cleaning.text_view import TextView
from data_pipelines.cleaning.unicode_repair import normalize, repair
from data_pipelines.cleaning.words import word_numbers

LANGUAGE, CONTAMINATION, EMPTY = "language", "contamination", "empty"


class Outcome(NamedTuple):
    """What became of a document."""

    text: str  # as it was when it was kept or dropped
    reason: str = ""  # why it is dropped; "" if it is kept
    value: str = ""  # what was found: the value of the rule, the language and its probability, the word
    language: str = ""
    removed: tuple[tuple[str, float, str], ...] = ()  # (rule, value, line) of each line
    changes: Mapping[str, int] = {}  # what was changed in it → how often


class Cleaner:
    """The filters of some settings.

    Args:
      index: of evaluation text, None if it is not looked for.
      bad_words: words and phrases, lower-cased.
    """

    def __init__(self, settings: CleaningSettings, index: Index | None, bad_words: tuple[str, ...]):
        self._settings, self._index = settings, index
        self._bad_words = None
        if bad_words:
            self._bad_words = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, bad_words))})(?!\w)")

    def clean(self, text: str) -> Outcome:
        """What becomes of a text."""
        settings, changes = self._settings, Counter()
        text = self._with_unicode(text, changes)
        language, drop = self._language(text)
        if drop:
            return Outcome(text, LANGUAGE, drop, language, changes=changes)
        reason, value = broken_rule(TextView(text, language), DOCUMENT_RULES, settings.bounds)
        if reason:
            return Outcome(text, reason, _number(value), language, changes=changes)
        if self._bad_words and (found := self._bad_words.search(text.lower())):
            return Outcome(text, C4_BAD_WORDS, found.group(), language, changes=changes)
        whole, removed = text, ()
        if settings.removes_lines:
            text, lines = remove_lines(text, settings.bounds)
            removed = tuple(lines)
        reason, value = broken_rule(TextView(text, language), REST_RULES, settings.bounds)
        if reason:  # the whole document goes, with its lines
            return Outcome(whole, reason, _number(value), language, changes=changes)
        if not text:
            return Outcome(text, EMPTY, "", language, removed, changes)
        if self._index is not None:
            numbers = word_numbers(text)
            shared = self._index.shared(numbers)
            # A whole short text may have too few places, and can never have more.
            if shared >= settings.min_shared or (shared and self._index.has_whole_text(numbers)):
                return Outcome(text, CONTAMINATION, str(shared), language, removed, changes)
        text, masked = mask(text, settings.mask, settings.phone_regions)
        changes.update({f"masked_{kind}": count for kind, count in masked.items()})
        return Outcome(text, "", "", language, removed, changes)

    def _with_unicode(self, text: str, changes: Counter) -> str:
        if self._settings.repair_unicode:
            repaired = repair(text)
            changes["repaired_documents"] += repaired != text
            text = repaired
        normal = normalize(text, self._settings.unicode_form)
        changes["normalized_documents"] += normal != text
        return normal.strip()

    def _language(self, text: str) -> tuple[str, str]:
        """The language, and why the document is dropped for it; "" if it is not."""
        if not self._settings.languages:
            return "", ""
        language, probability = identify(text)
        is_kept = language in self._settings.languages and probability >= self._settings.language_threshold
        return language, "" if is_kept else f"{language} {probability:.3f}"


def _number(value: float) -> str:
    return f"{value:.4g}"
