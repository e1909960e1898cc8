"""A corpus made dirty from known parts, and precision and recall of the filters that should clean it.

    PYTHONPATH=.:tests python tests/support/dirty_corpus.py --text data/wikitext2/train.jsonl \\
        --evaluation data/wikitext2/test.jsonl --foreign german.jsonl french.jsonl --out scratch/dirty

writes the corpus and the evaluation text, cleans the corpus and prints the table. All files are JSON lines
with a field `text`.
"""

import argparse
import json
import random
import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from data_pipelines.cleaning.builder import clean
from data_pipelines.cleaning.rules import C4, GOPHER_QUALITY, GOPHER_REPETITION, RULES
from data_pipelines.cleaning.settings import CleaningSettings

CLEAN, EXACT, NEAR, LEAKED, FOREIGN = "clean", "exact copy", "near copy", "evaluation text", "other language"
REPEATED, LISTS, PAGES = "repetition", "lists and symbols", "web pages"
# Filter → the part that it should find.
FILTERS = {
    "language": FOREIGN,
    GOPHER_REPETITION: REPEATED,
    GOPHER_QUALITY: LISTS,
    C4: PAGES,
    "contamination": LEAKED,
    "exact_duplicate": EXACT,
    "near_duplicate": NEAR,
}
MENU = (
    "Home",
    "About",
    "Contact",
    "Products",
    "Prices",
    "Login",
    "Register",
    "Search",
    "Help",
    "News",
    "Jobs",
)


class Made(NamedTuple):
    """A document, the part it belongs to, and the clean document that it was made from."""

    text: str
    part: str
    origin: int  # -1: of none that others are made from
    passage: str = ""  # of evaluation text in it


def make_dirty(texts, evaluation, foreign, *, seed=0, share=0.1, edits=0.01):
    """Clean texts, and for each kind of dirt `share` times as many documents, in random order.

    Args:
      evaluation: texts of which passages of 13 to 40 words get into other documents.
      foreign: texts in other languages, at most one for each document.
      edits: of a near copy, the share of words that are exchanged.
    """
    rng = random.Random(seed)
    number = max(1, int(share * len(texts) / (1 + share)))
    hosts, base = texts[:number], texts[number:]  # no other document is made from a host
    made = [Made(text, CLEAN, origin) for origin, text in enumerate(base)]
    pick = lambda: rng.randrange(len(base))
    for part, make in (
        (EXACT, lambda text: text),
        (NEAR, lambda text: edited(text, rng, edits)),
        (REPEATED, lambda text: repeated(text, rng)),
        (LISTS, lambda text: listing(text, rng)),
        (PAGES, lambda text: page(text, rng)),
    ):
        for origin in (pick() for _ in range(number)):
            made.append(Made(make(base[origin]), part, origin if part in (EXACT, NEAR) else -1))
    made += [leaked(text, rng.choice(evaluation), rng) for text in hosts]
    made += [Made(text, FOREIGN, -1) for text in rng.sample(foreign, min(number, len(foreign)))]
    rng.shuffle(made)
    return made


def edited(text, rng, share):
    """A copy with some words exchanged, another first line and other white space."""
    words = text.split(" ")
    for at in rng.sample(range(len(words)), max(1, int(share * len(words)))):
        words[at] = rng.choice(words)
    return f"Posted by user {rng.randrange(10**6)}.\n" + "  ".join(words)


def repeated(text, rng):
    """Sentences that a page repeats: its first ones, over and over."""
    sentences = re.split(r"(?<=[.?!]) ", text)[: rng.randint(3, 6)]
    return "\n".join(sentences * rng.randint(4, 8))


def listing(text, rng):
    """A bulleted list of numbers and codes, or an index without sentences."""
    words = rng.sample(text.split(), min(60, len(text.split())))
    if rng.random() < 0.5:
        return "\n".join(f"- {word} {rng.randrange(10**6)} # {rng.random():.5f} %" for word in words)
    return "\n".join(f"{word} {rng.randrange(900)} ..." for word in words)


def page(text, rng):
    """A page of a web site: words of its menus between half sentences, a script, or a place holder."""
    halves = [sentence[: len(sentence) // 2] for sentence in text.split(". ")[:20]]
    kind = rng.randrange(3)
    if kind == 0:
        lines = [" ".join(rng.sample(MENU, 4)) if rng.random() < 0.3 else half for half in halves]
        return "\n".join(lines)
    insert = ("if (window) { show(); } // script", "Lorem ipsum dolor sit amet, consectetur.")[kind - 1]
    return f"{text[: len(text) // 2]}\n{insert}\n{text[len(text) // 2 :]}"


def leaked(text, passage, rng):
    """A document with 13 to 40 consecutive words of an evaluation text in its midst."""
    words, place = passage.split(), len(text) // 2
    length = rng.randint(13, 40)
    start = rng.randrange(max(1, len(words) - length))
    passage = " ".join(words[start : start + length])
    return Made(f"{text[:place]} {passage} {text[place:]}", LEAKED, -1, passage)


def write_dirty(made, directory, num_files=3):
    """Write the documents to JSON lines files; returns the files, and (file, number) → document."""
    directory.mkdir(parents=True, exist_ok=True)
    places, paths = {}, [str(directory / f"part{number}.jsonl") for number in range(num_files)]
    for number, path in enumerate(paths):
        mine = made[number::num_files]
        write_texts(Path(path), [document.text for document in mine])
        places |= {(path, at): document for at, document in enumerate(mine, 1)}
    return paths, places


def write_texts(path, texts):
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return str(path)


def read_results(directory, kind):
    """The records of kept or dropped documents, or of removed lines."""
    paths = sorted(Path(directory).glob(f"{kind}-*.jsonl"))
    return [json.loads(line) for path in paths for line in path.read_text(encoding="utf-8").splitlines()]


def filter_of(reason):
    """The filter that gives a reason."""
    return RULES[reason].group if reason in RULES else reason


def scores(directory, places):
    """What the filters dropped: filter → how many, precision, recall, and the share of its part that is gone
    whatever dropped it; and the share of clean documents that are gone although no copy of them stays.

    Precision is the share of dropped documents that are no clean ones, whatever their part: a list of numbers
    is no English, either. A copy is found if one document fewer of its origin is kept: it makes no difference
    which one stays; a duplicate is right if the document that stays was made from the same text. Evaluation
    text is also gone if it was removed with a line of a document that is kept.
    """
    place = lambda record: places[record["source"], record["document"]]
    dropped = [(record, place(record)) for record in read_results(directory, "dropped")]
    still = [(record, place(record)) for record in read_results(directory, "kept")]
    kept = Counter(document.origin for _, document in still)
    parts, results = Counter(document.part for document in places.values()), {}
    gone = Counter(document.part for _, document in dropped)
    surplus = sum(max(0, number - 1) for origin, number in kept.items() if origin >= 0)
    gone[LEAKED] += sum(
        bool(document.passage) and document.passage not in record["text"] for record, document in still
    )
    gone[EXACT] = gone[NEAR] = None
    copies = 1 - surplus / max(1, parts[EXACT] + parts[NEAR])
    for name, part in FILTERS.items():
        mine = [(record, document) for record, document in dropped if filter_of(record["reason"]) == name]
        if part in (EXACT, NEAR):
            right = found = sum(_is_copy(record, document, places) for record, document in mine)
        else:
            right = sum(document.part != CLEAN for _, document in mine)
            found = sum(document.part == part for _, document in mine)
        results[name] = (
            len(mine),
            right / len(mine) if mine else float("nan"),
            found / max(1, parts[part]),
            copies if gone[part] is None else gone[part] / max(1, parts[part]),
        )
    clean_origins = {document.origin for document in places.values() if document.part == CLEAN}
    return results, 1 - len(clean_origins & set(kept)) / len(clean_origins)


def _is_copy(record, document, places):
    first = places[record["duplicate_of"]["source"], record["duplicate_of"]["document"]]
    return document.origin == first.origin >= 0


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for flag in ("--text", "--evaluation", "--foreign"):
        parser.add_argument(flag, nargs="+", required=True)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--edits", type=float, default=0.01)
    arguments = parser.parse_args()
    read = lambda paths: [
        json.loads(line)["text"] for path in paths for line in Path(path).read_text("utf-8").splitlines()
    ]
    texts = sorted({part for text in read(arguments.text) for part in sections(text)})
    random.Random(1).shuffle(texts)
    evaluation = read(arguments.evaluation)
    made = make_dirty(texts, evaluation, read(arguments.foreign), edits=arguments.edits)
    paths, places = write_dirty(made, arguments.out / "corpus")
    file = write_texts(arguments.out / "evaluation.jsonl", evaluation)
    settings = CleaningSettings(input=paths, languages=("en",), decontaminate=(file,))
    clean(str(arguments.out / "clean"), settings, num_processes=2)
    print(table(*scores(arguments.out / "clean", places), places))


def table(results, lost, places):
    """The scores in Markdown."""
    parts = Counter(document.part for document in places.values())
    lines = ["| filter | its part | documents of it | dropped | precision | recall | gone by any filter |"]
    lines.append("|---|---|---|---|---|---|---|")
    for name, (number, *shares) in results.items():
        cells = [f"`{name}`", FILTERS[name], f"{parts[FILTERS[name]]:,}", f"{number:,}"]
        lines.append(f"| {' | '.join([*cells, *(f'{value:.3f}' for value in shares)])} |")
    lines.append(f"\n{parts[CLEAN]:,} clean documents, {lost:.2%} of them gone without a copy that stays")
    return "\n".join(lines)


def sections(text, least=1500):
    """Parts of an article of some thousand characters, at the ends of lines."""
    parts, size = [[]], 0
    for line in text.split("\n"):
        if size >= least:
            parts.append([])
            size = 0
        parts[-1].append(line)
        size += len(line)
    return ["\n".join(part) for part in parts if sum(map(len, part)) >= least]


if __name__ == "__main__":
    main()
