"""Read files in SQuAD's format, as published and as annotation tools and Hugging Face write it."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from data_pipelines.json_files import TYPE_NAMES, parse_json, type_name
from data_pipelines.tasks.records import as_text
from data_pipelines.tasks.text_files import read_text

FORMAT = (
    'SQuAD\'s format is {"data": [{"paragraphs": [{"context": TEXT, "qas": [{"id": TEXT, "question": TEXT, '
    '"answers": [{"text": TEXT, "answer_start": NUMBER}]}]}]}]}, with "is_impossible" beside "answers" in '
    "v2.0"
)


class Record(NamedTuple):
    """A question as its source has it."""

    where: str
    id: str
    question: str  # "" if it is missing
    context: str  # "" if it is missing
    answers: list[tuple[str, int]]  # text and start; [] if the source has none
    is_impossible: bool
    is_taken_for_impossible: bool = False  # it has an empty list of answers, and no field that says why


def squad_records(path: str) -> list[Record]:
    """The questions of a file, plain or .gz.

    Whole numbers may be ids, and floats (4.0) starts. Answers with an empty text are none. "answers" may also
    be {"text": [TEXT], "answer_start": [NUMBER]}, and an entry of "data" a question with its context. In a
    file that has answers but no "is_impossible" at all, questions with an empty list of answers have none in
    their context, since that is how such files tell it.

    Raises:
      ValueError: the file is damaged or has another form.
    """
    entries = list(_entries(_content(path), path))
    records = [_record(question, context, where) for question, context, where in entries]
    says_impossible = any("is_impossible" in question for question, _, _ in entries)
    if says_impossible or not any(record.answers for record in records):
        return records
    return [
        record._replace(is_impossible=True, is_taken_for_impossible=True)
        if "answers" in question and not record.answers
        else record
        for record, (question, _, _) in zip(records, entries, strict=True)
    ]


def _content(path: str) -> Any:
    return parse_json(
        read_text(path), object, path, "Fetch it again: expected a whole file in SQuAD's format."
    )


def _entries(content: Any, path: str) -> Iterator[tuple[dict[str, Any], str, str]]:
    """(question, its context, location) of every question."""
    for article_at, article in enumerate(_field(content, "data", list, path)):
        article_place = f"{path}: data[{article_at}]"
        if isinstance(article, dict) and {"context", "question"} <= set(article):
            yield article, _text(article, "context", article_place), article_place
            continue
        for paragraph_at, paragraph in enumerate(_field(article, "paragraphs", list, article_place)):
            place = f"{article_place}.paragraphs[{paragraph_at}]"
            context = _text(paragraph, "context", place)
            for at, question in enumerate(_field(paragraph, "qas", list, place)):
                question_place = f"{place}.qas[{at}]"
                _field(question, "id", object, question_place)
                yield question, context, question_place


def _record(question: dict[str, Any], context: str, where: str) -> Record:
    is_impossible = "is_impossible" in question and _field(question, "is_impossible", bool, where)
    answers = []
    for at, answer in enumerate(_answers(question, where)):
        place = f"{where}.answers[{at}]"
        text, start = _text(answer, "text", place), _start(answer, place)
        # What some tools write for no answer. A blank one is kept to be counted.
        if text and (text.strip() or not is_impossible):
            answers.append((text, start))
    return Record(
        where, _id(question, where), _text(question, "question", where), context, answers, is_impossible
    )


def _answers(question: dict[str, Any], where: str) -> list[Any]:
    """The answers as a list of objects; {"text": [...], "answer_start": [...]} is another form of it."""
    answers = question.get("answers")
    if answers is None:
        return []
    if not isinstance(answers, dict):
        return _field(question, "answers", list, where)
    place = f"{where}.answers"
    texts, starts = (_field(answers, key, list, place) for key in ("text", "answer_start"))
    if len(texts) != len(starts):
        raise ValueError(
            f"{place}: got {len(texts)} texts and {len(starts)} starts, expected as many. {FORMAT}"
        )
    return [{"text": text, "answer_start": start} for text, start in zip(texts, starts, strict=True)]


def _id(question: dict[str, Any], where: str) -> str:
    value = _field(question, "id", object, where)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value) if type(value) is int else _field(question, "id", str, where)


def _start(answer: Any, where: str) -> int:
    value = _field(answer, "answer_start", object, where)
    if isinstance(value, str) and value.strip().removeprefix("-").isdecimal():
        return int(value)
    is_whole = isinstance(value, float) and value.is_integer()
    return int(value) if is_whole else _field(answer, "answer_start", int, where)


def _text(record: Any, key: str, where: str) -> str:
    """The text of `key`, "" for null."""
    value = _field(record, key, object, where)
    return "" if value is None else _field(record, key, str, where)


def _field(record: Any, key: str, expected_type: type, where: str) -> Any:
    """The value of `key`, which must have exactly this type; any value for `object`."""
    if not isinstance(record, dict):
        raise ValueError(
            f"{where}: got {type_name(record)}, expected an object with the field {key!r}. {FORMAT}"
        )
    if key not in record:
        raise ValueError(
            f"{where}: no field {key!r}, found {', '.join(map(repr, record)) or 'no fields'}. {FORMAT}"
        )
    value = record[key]
    if expected_type is object:
        return value
    if type(value) is not expected_type:
        expected = TYPE_NAMES[expected_type]
        raise ValueError(f"{where}: {key!r} is {type_name(value)}, expected {expected}. {FORMAT}")
    return as_text(value, key, where) if expected_type is str else value
