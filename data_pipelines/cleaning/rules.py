"""The rules of Gopher and C4, one row each: what is measured, the published bound, and where it is published.

A document breaks a rule if its value is above the bound, or below it for the bounds whose names have "min".
"""

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

from data_pipelines.cleaning.text_view import TextView, repeated_characters, repeated_share

GOPHER_QUALITY, GOPHER_REPETITION, C4 = GROUPS = ("gopher_quality", "gopher_repetition", "c4")
SOURCES = {
    GOPHER_QUALITY: "Rae et al. 2021, Scaling Language Models (Gopher), appendix A.1.1, quality filtering",
    GOPHER_REPETITION: "Rae et al. 2021, Scaling Language Models (Gopher), table A1",
    C4: "Raffel et al. 2020, Exploring the Limits of Transfer Learning (T5), section 2.2",
}
STOP_WORDS = frozenset(("the", "be", "to", "of", "and", "that", "have", "with"))
POLICIES = (
    "terms of use",
    "privacy policy",
    "cookie policy",
    "uses cookies",
    "use of cookies",
    "use cookies",
)
END_MARKS = (".", "?", "!", '"', "”")
# Begins only where the marks do: a million full stops in a row would take hours otherwise.
_SENTENCE_END = re.compile(r"(?<![.?!])[.?!]+[\"'”’)\]]*(?=\s|$)")
_CITATION = re.compile(r"\[\d+\]|\[edit\]|\[citation needed\]")


class Rule(NamedTuple):
    """One bound. `measure` is called with a `TextView`, for a rule of C4's lines with a line."""

    group: str
    bound: float  # as published
    measure: Callable
    meaning: str

    def is_broken(self, name: str, value: float, bound: float) -> bool:
        """Whether a value is beyond `bound`."""
        return value < bound if "min" in name.split("_") else value > bound


def _mean_word_length(view: TextView) -> float:
    return float(view.word_lengths.mean()) if len(view.words) else 0.0


def _stop_words(view: TextView) -> float:
    """Different stop words; infinite for a text in another language than English, where they say nothing."""
    if view.language not in ("", "en"):
        return float("inf")
    return len(STOP_WORDS.intersection(word.lower() for word in view.words))


def _per_word(view: TextView, *symbols: str) -> float:
    return sum(map(view.text.count, symbols)) / max(1, len(view.words))


def _has_letter(word: str) -> bool:
    return any(map(str.isalpha, word))


def _is_bullet(line: str) -> bool:
    return line.startswith(("•", "-", "*"))


def _ends_in_ellipsis(text: str) -> bool:
    return text.endswith(("...", "…"))


def sentences(text: str) -> int:
    """The number of sentences: ends of lines, and marks before white space. The original splits sentences
    with a trained model of NLTK, which would have to be fetched."""
    return len(_SENTENCE_END.findall(text))


def _gopher_quality() -> dict[str, Rule]:
    row = partial(Rule, GOPHER_QUALITY)
    num_words = lambda view: len(view.words)
    hashes, ellipses = (lambda view: _per_word(view, "#")), (lambda view: _per_word(view, "...", "…"))
    return {
        "gopher_min_words": row(50, num_words, "words"),
        "gopher_max_words": row(100_000, num_words, "words"),
        "gopher_min_mean_word_length": row(3, _mean_word_length, "characters of a word, on average"),
        "gopher_max_mean_word_length": row(10, _mean_word_length, "characters of a word, on average"),
        "gopher_max_hashes": row(0.1, hashes, "number signs for each word"),
        "gopher_max_ellipses": row(0.1, ellipses, "ellipses for each word"),
        "gopher_max_bullet_lines": row(
            0.9, lambda view: view.share_of_lines(_is_bullet), "share of lines that start with a bullet"
        ),
        "gopher_max_ellipsis_lines": row(
            0.3, lambda view: view.share_of_lines(_ends_in_ellipsis), "share of lines that end in an ellipsis"
        ),
        "gopher_min_alphabetic_words": row(
            0.8, lambda view: view.share_of_words(_has_letter), "share of words with a letter"
        ),
        "gopher_min_stop_words": row(
            2, _stop_words, f"different words among {', '.join(sorted(STOP_WORDS))}"
        ),
    }


def _gopher_repetition() -> dict[str, Rule]:
    row = partial(Rule, GOPHER_REPETITION)
    rules = {
        "gopher_max_duplicate_lines": row(
            0.30, lambda view: repeated_share(view.lines), "share of lines that occurred before"
        ),
        "gopher_max_duplicate_paragraphs": row(
            0.30, lambda view: repeated_share(view.paragraphs), "share of paragraphs that occurred before"
        ),
        "gopher_max_duplicate_line_chars": row(
            0.20, lambda view: repeated_characters(view.lines), "share of characters in such lines"
        ),
        "gopher_max_duplicate_paragraph_chars": row(
            0.20, lambda view: repeated_characters(view.paragraphs), "share of characters in such paragraphs"
        ),
    }
    for n, bound in ((2, 0.20), (3, 0.18), (4, 0.16)):
        rules[f"gopher_max_top_{n}gram_chars"] = row(
            bound,
            lambda view, n=n: view.top_ngram_characters(n),
            f"share of characters in the commonest {n} words",
        )
    for n, bound in ((5, 0.15), (6, 0.14), (7, 0.13), (8, 0.12), (9, 0.11), (10, 0.10)):
        rules[f"gopher_max_duplicate_{n}gram_chars"] = row(
            bound,
            lambda view, n=n: view.duplicate_ngram_characters(n),
            f"share of characters in {n} words that occur twice",
        )
    return rules


def _c4_pages() -> dict[str, Rule]:
    row = partial(Rule, C4)
    lower_count = lambda view, words: view.text.lower().count(words)
    return {
        "c4_max_curly_brackets": row(0, lambda view: view.text.count("{"), "curly brackets, as in code"),
        "c4_max_lorem_ipsum": row(0, lambda view: lower_count(view, "lorem ipsum"), "“lorem ipsum”"),
    }


def _c4_lines() -> dict[str, Rule]:
    row = partial(Rule, C4)
    return {
        "c4_line_max_word_length": row(
            1000, lambda line: max(map(len, line.split()), default=0), "characters of its longest word"
        ),
        "c4_line_min_end_marks": row(
            1,
            lambda line: line.endswith(END_MARKS) and not _ends_in_ellipsis(line),
            "whether it ends in one of . ? ! ”",
        ),
        "c4_line_min_words": row(5, lambda line: len(line.split()), "words"),
        "c4_line_max_javascript": row(0, lambda line: "javascript" in line.lower(), "“Javascript”"),
        "c4_line_max_policies": row(
            0, lambda line: any(words in line.lower() for words in POLICIES), "words of policies on cookies"
        ),
    }


def _c4_rest() -> dict[str, Rule]:
    """What is measured after lines were removed."""
    return {"c4_min_sentences": Rule(C4, 3, lambda view: sentences(view.text), "sentences that are left")}


DOCUMENT_RULES: Mapping[str, Rule] = {**_gopher_quality(), **_gopher_repetition(), **_c4_pages()}
LINE_RULES: Mapping[str, Rule] = _c4_lines()
REST_RULES: Mapping[str, Rule] = _c4_rest()
RULES: Mapping[str, Rule] = {**DOCUMENT_RULES, **LINE_RULES, **REST_RULES}


def broken_rule(view: TextView, rules: Mapping[str, Rule], bounds: Mapping[str, float]) -> tuple[str, float]:
    """The first of `rules` that a text breaks, and its value; ("", 0.0) if it breaks none.

    Args:
      bounds: name → bound, of the rules that are on.
    """
    return _first_broken(view, rules, bounds)


def remove_lines(text: str, bounds: Mapping[str, float]) -> tuple[str, list[tuple[str, float, str]]]:
    """The text without the lines that break a rule of C4, and without citation marks such as [1].

    Returns:
      The text that is left, and (rule, value, line) of every removed line.
    """
    kept, removed = [], []
    for line in text.split("\n"):
        line = _CITATION.sub("", line).strip()
        if not line:
            kept.append(line)
            continue
        name, value = _first_broken(line, LINE_RULES, bounds)
        if name:
            removed.append((name, value, line))
        else:
            kept.append(line)
    return re.sub(r"\n{3,}", "\n\n", "\n".join(kept)).strip(), removed


def _first_broken(measured, rules: Mapping[str, Rule], bounds: Mapping[str, float]) -> tuple[str, float]:
    for name, rule in rules.items():
        if name in bounds:
            value = float(rule.measure(measured))
            if rule.is_broken(name, value, bounds[name]):
                return name, value
    return "", 0.0
