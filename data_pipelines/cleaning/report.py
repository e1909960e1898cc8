"""The report of a cleaning in Markdown: what was dropped and why, with examples."""

import re
import unicodedata
from collections.abc import Mapping
from typing import Any

from data_pipelines.cleaning.cleaner import CONTAMINATION, EMPTY, LANGUAGE
from data_pipelines.cleaning.duplicate_search import EXACT, NEAR
from data_pipelines.cleaning.rules import RULES, SOURCES
from data_pipelines.cleaning.settings import C4_BAD_WORDS, CleaningSettings

INDENT = "    "  # makes a block of code, in which nothing is read as Markdown or HTML


def report_lines(counts: Mapping[str, Any], settings: CleaningSettings) -> list[str]:
    """The counts for a terminal."""
    lines = [
        f"{counts['documents']:,} documents read, {counts['kept']:,} kept "
        f"({_share(counts['kept'], counts['documents'])}), with {counts['kept_characters']:,} of "
        f"{counts['characters']:,} characters"
    ]
    for reason, number in _largest_first(counts["dropped"]):
        lines.append(f"{number:>12,} documents dropped: {reason} ({meaning(reason, settings)})")
    for rule, number in _largest_first(counts["removed_lines"]):
        lines.append(f"{number:>12,} lines removed: {rule} ({meaning(rule, settings)})")
    lines += [f"{number:>12,} {name.replace('_', ' ')}" for name, number in counts["changes"].items()]
    return lines + _short_texts(counts)


def report_markdown(
    counts: Mapping[str, Any], examples: Mapping[str, list[list]], settings: CleaningSettings
) -> str:
    """The whole report. Texts of documents are in blocks of code, without characters that cannot be seen."""
    lines = ["# What was cleaned", ""]
    lines += [
        f"{counts['documents']:,} documents were read from {len(settings.input)} sources; {counts['kept']:,} "
        f"({_share(counts['kept'], counts['documents'])}) are kept, with {counts['kept_characters']:,} of "
        f"{counts['characters']:,} characters.",
        "",
    ]
    lines += [word for line in _short_texts(counts) for word in (line.strip() + ".", "")]
    for title, key, noun in (
        ("Dropped documents", "dropped", "documents"),
        ("Lines removed from kept documents", "removed_lines", "lines"),
    ):
        if counts[key]:
            lines += [f"## {title}", "", f"| reason | {noun} | of each 100 documents | what it is |"]
            lines.append("|---|---|---|---|")
            for reason, number in _largest_first(counts[key]):
                share = f"{100 * number / counts['documents']:.1f}"
                lines.append(f"| `{reason}` | {number:,} | {share} | {meaning(reason, settings)} |")
            lines.append("")
    if counts["changes"]:
        lines += ["## Changed in kept and dropped documents", ""]
        lines += [f"* {name.replace('_', ' ')}: {number:,}" for name, number in counts["changes"].items()]
        lines.append("")
    lines += ["## Examples", ""]
    for reason in sorted(examples):
        lines += [f"### `{reason}`", "", meaning(reason, settings) + ".", ""]
        for _, record in examples[reason]:
            lines += _example(record)
    return "\n".join(lines).rstrip() + "\n"


def _short_texts(counts: Mapping[str, Any]) -> list[str]:
    number = counts["short_evaluation_texts"]
    return [f"{number:>12,} evaluation texts are too short to be looked for"] if number else []


def meaning(reason: str, settings: CleaningSettings) -> str:
    """What a reason says, with the bound and its source."""
    if reason in RULES:
        rule, bound = RULES[reason], settings.bounds[reason]
        word = "fewer than" if rule.is_broken(reason, bound - 1, bound) else "more than"
        place = SOURCES[rule.group].partition(",")[0]
        return f"{rule.meaning}: {word} {bound:g}; {place}"
    return {
        LANGUAGE: f"not one of {', '.join(settings.languages)} with probability "
        f"{settings.language_threshold:g} or more",
        CONTAMINATION: f"{settings.min_shared} or more times {settings.shared_words} words of an evaluation "
        "text, or a whole one of fewer words",
        C4_BAD_WORDS: "a word of --bad_words",
        EMPTY: "nothing was left",
        EXACT: "the whole text of an earlier document",
        NEAR: f"similarity {settings.similarity:g} or more to an earlier document, or to one between",
    }[reason]


def _example(record: Mapping[str, Any]) -> list[str]:
    heading = (
        f"{_visible(record['source'])}, document {record['document']}, value {_visible(record['value'])}"
    )
    if "duplicate_of" in record:
        first = record["duplicate_of"]
        heading += f", kept: {_visible(first['source'])}, document {first['document']}"
    text = [INDENT + _visible(line) for line in record["text"].split("\n")]
    return [INDENT + heading, INDENT.rstrip() + "", *text, "", "<!-- -->", ""]


def _visible(text: str) -> str:
    """The text with escapes for characters that control a terminal or the direction of writing."""
    return re.sub(
        r"[^ -~]",
        lambda match: (
            match.group()
            if unicodedata.category(match.group())[0] not in "CZ"
            else f"\\u{ord(match.group()):04x}"
        ),
        text,
    )


def _share(number: int, total: int) -> str:
    return f"{number / max(1, total):.1%}"


def _largest_first(numbers: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(numbers.items(), key=lambda item: (-item[1], item[0]))
