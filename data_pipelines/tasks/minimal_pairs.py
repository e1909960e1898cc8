"""Read minimal pairs: two sentences that differ in one point of grammar, of which one is acceptable.

BLiMP (Warstadt et al. 2020) has a file of JSON lines for each phenomenon. Two fields are needed,
`sentence_good` and `sentence_bad`. `UID` names the phenomenon, the file if it is missing; of several files
with one name, each with the folders that tell them apart. `field` and `linguistics_term` group phenomena and
may be missing.
"""

import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from data_pipelines.json_files import parse_json, type_name
from data_pipelines.tasks.files import table_rows
from data_pipelines.tasks.records import as_text, json_objects
from data_pipelines.tasks.text_files import numbered_lines, plain_ending, read_text, short_names

GOOD, BAD = "sentence_good", "sentence_bad"
PHENOMENON, FIELD, TERM = "UID", "field", "linguistics_term"
ENDINGS = (".jsonl", ".json", ".csv", ".tsv")  # also with .gz
ADVICE = f"Name the two sentences of each pair {GOOD} and {BAD}."


class MinimalPair(NamedTuple):
    """Two sentences."""

    where: str  # file:line
    good: str
    bad: str
    phenomenon: str
    field: str  # "" if the file does not tell
    term: str  # the same


class PairFile(NamedTuple):
    """The pairs of one file that are scored."""

    path: str
    pairs: list[MinimalPair]

    @property
    def digest(self) -> str:
        """SHA-256 of the sentences."""
        sentences = json.dumps([(pair.good, pair.bad) for pair in self.pairs])
        return hashlib.sha256(sentences.encode()).hexdigest()


def load_pairs(places: Sequence[str], max_pairs: int) -> list[PairFile]:
    """The pairs of files, or of all such files in directories.

    Args:
      max_pairs: how many of each phenomenon, the first ones; 0: all.

    Raises:
      FileNotFoundError: no such place, or a directory without such files.
      ValueError: a field is missing, a sentence is blank, a file is damaged, or a phenomenon belongs to two
        fields or terms; names file and line.
    """
    counts: dict[str, int] = {}
    first: dict[str, MinimalPair] = {}
    files = []
    for path, name in _names(find_files(places)).items():
        chosen = []
        for pair in read_pairs(path, name):
            _check_same_group(pair, first.setdefault(pair.phenomenon, pair))
            counts[pair.phenomenon] = counts.get(pair.phenomenon, 0) + 1
            if not max_pairs or counts[pair.phenomenon] <= max_pairs:
                chosen.append(pair)
        if chosen:
            files.append(PairFile(path, chosen))
    return files


def find_files(places: Sequence[str]) -> list[str]:
    """The files of `places`, those of a directory by name; each once. Raises as `load_pairs`."""
    found: dict[Path, str] = {}
    for place in places:
        path = Path(place)
        paths = [path]
        if path.is_dir():
            children = sorted(child for child in path.iterdir() if child.is_file())
            paths = [child for child in children if plain_ending(child.name) in ENDINGS]
            if not paths:
                raise FileNotFoundError(
                    f"{place}: got no file in it that ends in {' or '.join(ENDINGS)} (also with .gz), "
                    "expected files of minimal pairs. Give the directory that holds them."
                )
        elif not path.is_file():
            raise FileNotFoundError(
                f"{place}: does not exist, expected a file or a directory of minimal pairs."
            )
        elif (ending := plain_ending(place)) not in ENDINGS:
            raise ValueError(
                f"{place}: got a file that ends in {ending or 'nothing'!r}, expected one of "
                f"{', '.join(ENDINGS)} (also with .gz). Unpack an archive first, or convert the file."
            )
        for one in paths:
            found.setdefault(one.resolve(), str(one))
    return list(found.values())


def _names(paths: Sequence[str]) -> dict[str, str]:
    """Path → the phenomenon of pairs that do not name theirs."""
    plain = {path: str(Path(path).parent / _stem(path)) for path in paths}
    count = Counter(plain.values())
    # With their endings if they differ in nothing else.
    unlike = {path: name if count[name] == 1 else path for path, name in plain.items()}
    short = short_names(list(unlike.values()))
    return {path: short[name] for path, name in unlike.items()}


def _stem(path: str) -> str:
    """The file's name without its ending."""
    name = Path(path).name
    return name[: name.lower().rindex(plain_ending(path))]


def read_pairs(path: str, phenomenon: str = "") -> list[MinimalPair]:
    """All pairs of one file. Raises ValueError as `load_pairs`.

    Args:
      phenomenon: of pairs that do not name theirs; "": the file's name without its ending.
    """
    phenomenon = phenomenon or _stem(path)
    pairs = [
        MinimalPair(
            where,
            _sentence(record, GOOD, where),
            _sentence(record, BAD, where),
            _label(record, PHENOMENON, where) or phenomenon,
            _label(record, FIELD, where),
            _label(record, TERM, where),
        )
        for where, record in _records(path)
    ]
    if not pairs:
        raise ValueError(f"{path}: got no pair in it, expected {GOOD} and {BAD} of at least one.")
    return pairs


def _records(path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(file:line, fields) of each pair."""
    ending = plain_ending(path)
    if ending in (".csv", ".tsv"):
        yield from _table_records(path)
    elif ending == ".json" and (text := read_text(path)).lstrip()[:1] == "[":
        records = parse_json(text, [dict], path, ADVICE)
        yield from ((f"{path}: pair {number}", record) for number, record in enumerate(records, 1))
    else:
        yield from json_objects(((f"{path}:{number}", line) for number, line in numbered_lines(path)), GOOD)


def _table_records(path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    rows = iter(table_rows(path))
    number, header = next(rows, (1, []))
    _check_has(header, f"{path}:{number}")
    for number, fields in rows:
        if len(fields) != len(header):
            raise ValueError(
                f"{path}:{number}: got {len(fields)} columns, expected {len(header)} as in the first row. "
                "Correct the row."
            )
        yield f"{path}:{number}", dict(zip(header, fields, strict=True))


def _check_has(fields: Any, where: str) -> None:
    missing = [name for name in (GOOD, BAD) if name not in fields]
    if missing:
        found = ", ".join(map(repr, itertools.islice(fields, 8))) or "no fields"
        raise ValueError(f"{where}: no {' and no '.join(map(repr, missing))}, found {found}. {ADVICE}")


def _sentence(record: dict[str, Any], name: str, where: str) -> str:
    _check_has(record, where)
    text = as_text(record[name], name, where, "correct the line")
    if not text.strip():
        raise ValueError(f"{where}: {name!r} is blank, expected a sentence. Correct the line, or remove it.")
    return text


def _label(record: dict[str, Any], name: str, where: str) -> str:
    label = record.get(name)
    if label is None:
        return ""
    if not isinstance(label, str | int) or isinstance(label, bool):
        raise ValueError(f"{where}: {name!r} is {type_name(label)}, expected a name. Correct the line.")
    return str(label).strip()


def _check_same_group(pair: MinimalPair, first: MinimalPair) -> None:
    for name, got, expected in ((FIELD, pair.field, first.field), (TERM, pair.term, first.term)):
        if got != expected:
            raise ValueError(
                f"{pair.where}: got the {name} {got!r} of {pair.phenomenon!r}, expected {expected!r} as in "
                f"{first.where}. Give each {PHENOMENON} one {name}."
            )
