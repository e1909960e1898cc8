"""Read pairs of texts that mean the same, with texts that do not, to train embeddings on; and pairs with a
number for their similarity, to evaluate on.

Files are .tsv, .csv or .jsonl, or JSON in SQuAD's format, in which each question belongs to its paragraph.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from data_pipelines.tasks.files import check_are_different, has_header, table_rows
from data_pipelines.tasks.records import Skipped, as_number, as_text, json_objects, skip_malformed
from data_pipelines.tasks.squad_files import squad_records
from data_pipelines.tasks.text_files import check_is_file, most_common, numbered_lines, plain_ending

ENDINGS = (".tsv", ".csv", ".jsonl", ".json")  # also with .gz
SQUAD = ".json"
ADVICE = (
    "set config.task.text, pair, negatives and label to names in the first line, or to numbers from 0 if the "
    "file has no header"
)
NUMBER_ADVICE = "correct the data, or name its column in config.task.label"


class EmbeddingExample(NamedTuple):
    """A text, and what is near to it and far from it."""

    text: str  # a query, or the first text of a pair
    pair: str | None  # the text that belongs to it; None: its own text, in another dropout mask
    negatives: tuple[str, ...]  # hard negatives, one a column; "" for none
    label: float | None  # similarity of text and pair; None: not known, or there are no numbers


class EmbeddingColumns(NamedTuple):
    """Names or numbers of the columns; "" for none."""

    text: str
    pair: str
    negatives: tuple[str, ...]
    label: str


def columns_of(task: dict[str, Any]) -> EmbeddingColumns:
    """The columns that config.task names."""
    negatives = tuple(name.strip() for name in task["negatives"].split(",") if name.strip())
    return EmbeddingColumns(task["text"], task["pair"], negatives, task["label"])


def ending_of(path: str) -> str:
    """The extension of a file, without .gz.

    Raises:
      ValueError: embeddings cannot be read from files with this extension. FileNotFoundError: no such file.
    """
    ending = plain_ending(path)
    if ending not in ENDINGS:
        raise ValueError(
            f"{path}: unknown file format for embeddings, expected one of {', '.join(ENDINGS)} (also with "
            ".gz); convert it, or change config.task.kind"
        )
    check_is_file(path)
    return ending


def read_embedding_file(
    path: str, columns: EmbeddingColumns, split: str, skipped: Skipped
) -> list[EmbeddingExample]:
    """The examples of a file.

    A split to train on may lack the column of the pair: each text is then its own pair. Its labels are not
    read. Negatives are read to train on, and to search in; a file to evaluate on may lack their columns. Of a
    file to test on without any number, predictions are identified by position, so no row is skipped.

    Raises:
      ValueError: a column is missing, the file is damaged, or a row of a file to test on without numbers has
        another number of columns. FileNotFoundError: no such file.
    """
    ending = ending_of(path)
    if ending == SQUAD:
        return _of_squad(path, split, skipped)
    is_train = split == "train"
    wanted = columns if not is_train else columns._replace(label="")
    optional = {columns.pair} if is_train else set(columns.negatives)
    optional |= {columns.label} if split != "validation" else set()
    names = [name for name in (columns.text, columns.pair, *columns.negatives, columns.label) if name]
    if ending == ".jsonl":
        records = _json_records(path, names, optional)
    else:
        records = _table_records(path, names, optional, wanted.label, split, skipped)
    has_pair = bool(wanted.pair) and any(wanted.pair in fields for _, fields in records)
    read = [_example(fields, wanted, where, has_pair=has_pair) for where, fields in records]
    if split == "test" and wanted.label and all(example.label is None for example in read):
        return read
    examples = []
    for (where, fields), example in zip(records, read, strict=True):
        if not example.text.strip() or (example.pair is not None and not example.pair.strip()):
            skipped.add(split, "an empty text", where)
        elif wanted.label and wanted.label in fields and example.label is None:
            skipped.add(split, "a missing label", where)
        else:
            if wanted.pair and not has_pair:
                own = f"no column {wanted.pair!r} of a pair, so that each text is its own (SimCSE)"
                skipped.keep(split, own, where)
            if is_train and columns.label and fields.get(columns.label) not in (None, ""):
                unread = f"a value in column {columns.label!r}, which is not read: "
                skipped.keep(split, unread + "all pairs to train on belong together", where)
            examples.append(example)
    return examples


def _example(
    fields: dict[str, Any], columns: EmbeddingColumns, where: str, *, has_pair: bool
) -> EmbeddingExample:
    text = lambda name: as_text(fields.get(name), name, where)
    return EmbeddingExample(
        text(columns.text),
        text(columns.pair) if has_pair else None,
        tuple(map(text, columns.negatives)),
        as_number(fields.get(columns.label), where, "for the similarity of the two texts", NUMBER_ADVICE)
        if columns.label
        else None,
    )


def _of_squad(path: str, split: str, skipped: Skipped) -> list[EmbeddingExample]:
    """A question and the paragraph that answers it."""
    examples = []
    for record in squad_records(path):
        if not record.question.strip() or not record.context.strip():
            skipped.add(split, "an empty text", record.where)
        elif record.is_impossible:
            skipped.add(split, "a question that its paragraph does not answer", record.where)
        else:
            examples.append(EmbeddingExample(record.question, record.context, (), None))
    return examples


def _table_records(
    path: str, names: Sequence[str], optional: set[str], label: str, split: str, skipped: Skipped
) -> list[tuple[str, dict[str, Any]]]:
    with_header = has_header(path, names)
    rows = table_rows(path, has_header=with_header)
    if with_header and rows:
        header = rows.pop(0)[1]
        check_are_different(f"{path}:1", header, names)
        width, places = len(header), {name: header.index(name) for name in names if name in header}
        known = f"found {', '.join(map(repr, header))}"
    else:
        width = most_common(len(fields) for _, fields in rows)
        places = {name: int(name) for name in names if rows and int(name) < width}
        known = f"its rows have {width} columns, counted from 0"
    if rows or places:
        _check_has(f"{path}:1", names, places, optional, known)
    records, malformed = [], []
    for number, fields in rows:
        where = f"{path}:{number}"
        if len(fields) == width:
            records.append((where, {name: fields[at] for name, at in places.items()}))
        else:
            malformed.append((where, len(fields)))
    labels = [fields.get(label, "").strip() or None for _, fields in records if label]
    skip_malformed(malformed, width, split, skipped, labels)
    return records


def _json_records(path: str, names: Sequence[str], optional: set[str]) -> list[tuple[str, dict[str, Any]]]:
    lines = ((f"{path}:{number}", line) for number, line in numbered_lines(path))
    records = list(json_objects(lines, names[0]))
    # A field that some records lack is a missing value; one that all records lack is a wrong name.
    known = dict.fromkeys(name for _, record in records for name in record)
    if records:
        _check_has(path, names, known, optional, f"found {', '.join(map(repr, known)) or 'no fields'}")
    return records


def _check_has(
    where: str, names: Sequence[str], found: dict[str, Any], optional: set[str], known: str
) -> None:
    missing = [name for name in names if name not in found and name not in optional]
    if missing:
        raise ValueError(f"{where}: no column {' and no '.join(map(repr, missing))}, {known}; {ADVICE}")
