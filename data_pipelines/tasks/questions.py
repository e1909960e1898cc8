"""Read questions about texts from files in SQuAD's format (v1.1 and v2.0) or from TensorFlow Datasets.

An answer that is not at its stated position is searched for in the rest of its context. Such answers, and
questions that cannot be used, are counted.
"""

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import tensorflow_datasets as tfds

from data_pipelines.tasks.datasets import TaskDataset
from data_pipelines.tasks.files import check_is_file, read_text
from data_pipelines.tasks.records import Columns, Skipped, as_text

QUESTION_COLUMNS = Columns("question", "context", "answers")  # the features of squad/v1.1 and squad/v2.0
FORMAT = (
    'SQuAD\'s format is {"data": [{"paragraphs": [{"context": TEXT, "qas": [{"id": TEXT, "question": TEXT, '
    '"answers": [{"text": TEXT, "answer_start": NUMBER}]}]}]}]}, with "is_impossible" beside "answers" in '
    "v2.0"
)
TYPE_NAMES = {
    dict: "an object",
    list: "a list",
    str: "a string",
    int: "a whole number",
    bool: "true or false",
}


class Question(NamedTuple):
    """A question, and the text that contains its answer.

    `context[start : start + len(answer)] == answer` unless `start` is None: the question is impossible or not
    labelled, or, outside training, no answer was found in the context.
    """

    id: str
    question: str
    context: str
    answers: tuple[str, ...]  # every correct answer as the data spells it; () if impossible or not labelled
    start: int | None  # position in `context`, in characters, of the first answer that was found
    answer: str  # that answer as the context spells it, or ""
    is_impossible: bool  # the context does not contain an answer
    is_labelled: bool  # False for all questions of a split without answers


class _Record(NamedTuple):
    """A question as its source has it."""

    where: str
    id: str
    question: str
    context: str
    answers: list[tuple[str, int]]  # text and start; [] if the source has none
    is_impossible: bool


def read_squad_file(path: str, split: str, skipped: Skipped) -> list[Question]:
    """The questions of a file in SQuAD's format, plain or .gz; only the split "test" may lack every answer.

    Raises:
      ValueError: the file is damaged or has another form, an id occurs twice, or a split other than "test"
        has no answer.
      FileNotFoundError: no such file.
    """
    check_is_file(path)
    questions = _questions(list(_file_records(path)), split, skipped)
    if split != "test" and questions and not questions[0].is_labelled:
        raise ValueError(
            f"{path}: no question has an answer, expected some; only a file to test on may have none. "
            f"{FORMAT}"
        )
    return questions


def questions_of_dataset(dataset: TaskDataset, name: str, split: str, skipped: Skipped) -> list[Question]:
    """The questions of squad/v1.1, squad/v2.0, or another dataset with their features.

    Args:
      dataset: opened with QUESTION_COLUMNS.
      name: the dataset's split to read.
      split: its purpose: "train", "validation" or "test".

    Raises:
      ValueError: no such split or features, it cannot be read, an id occurs twice, or a split to train on has
        no answer.
    """
    features = dataset.builder.info.features
    answers = getattr(features[dataset.columns.label], "feature", None)
    has_answers = isinstance(answers, tfds.features.FeaturesDict) and {"text", "answer_start"} <= set(answers)
    if "id" not in features or not has_answers:
        raise ValueError(
            f"{dataset.source}: got the features {', '.join(features)}, expected 'id' and, in "
            f"{dataset.columns.label!r}, sequences of 'text' and 'answer_start', as squad/v1.1 has; check "
            "config.task.source"
        )
    questions = _questions(list(_dataset_records(dataset, name)), split, skipped)
    if split == "train" and questions and not questions[0].is_labelled:
        raise ValueError(
            f"{dataset.source}: no question of {name!r} has an answer, expected some to train on; check "
            "config.task.source"
        )
    return questions


def _file_records(path: str) -> Iterator[_Record]:
    try:
        content = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path}:{error.lineno}: not valid JSON ({error.msg}), expected a whole file in SQuAD's format; "
            "fetch it again"
        ) from error
    for article_at, article in enumerate(_field(content, "data", list, path)):
        article_place = f"{path}: data[{article_at}]"
        for paragraph_at, paragraph in enumerate(_field(article, "paragraphs", list, article_place)):
            place = f"{article_place}.paragraphs[{paragraph_at}]"
            context = _field(paragraph, "context", str, place)
            for at, question in enumerate(_field(paragraph, "qas", list, place)):
                yield _file_record(question, context, f"{place}.qas[{at}]")


def _file_record(question: Any, context: str, where: str) -> _Record:
    answers = []
    for at, answer in enumerate(_field(question, "answers", list, where) if "answers" in question else []):
        place = f"{where}.answers[{at}]"
        answers.append((_field(answer, "text", str, place), _field(answer, "answer_start", int, place)))
    return _Record(
        where,
        _field(question, "id", str, where),
        _field(question, "question", str, where),
        context,
        answers,
        "is_impossible" in question and _field(question, "is_impossible", bool, where),
    )


def _field(record: Any, key: str, expected_type: type, where: str) -> Any:
    """The value of `key`, which must have exactly this type."""
    if not isinstance(record, dict):
        raise ValueError(
            f"{where}: got {_type_name(record)}, expected an object with the field {key!r}. {FORMAT}"
        )
    if key not in record:
        raise ValueError(
            f"{where}: no field {key!r}, found {', '.join(map(repr, record)) or 'no fields'}. {FORMAT}"
        )
    value = record[key]
    if type(value) is not expected_type:
        expected = TYPE_NAMES[expected_type]
        raise ValueError(f"{where}: {key!r} is {_type_name(value)}, expected {expected}. {FORMAT}")
    return as_text(value, key, where) if expected_type is str else value


def _type_name(value: Any) -> str:
    if value is None:
        return "null"
    return TYPE_NAMES.get(type(value), f"a {type(value).__name__}")


def _dataset_records(dataset: TaskDataset, name: str) -> Iterator[_Record]:
    columns = dataset.columns
    for where, example in dataset.examples(name):
        texts = {key: as_text(example[key], key, where) for key in ("id", columns.text, columns.pair)}
        answers = example[columns.label]
        yield _Record(
            where,
            texts["id"],
            texts[columns.text],
            texts[columns.pair],
            [
                (as_text(text, columns.label, where), int(at))
                for text, at in zip(answers["text"], answers["answer_start"], strict=True)
            ],
            "is_impossible" in example and bool(example["is_impossible"]),
        )


def _questions(records: list[_Record], split: str, skipped: Skipped) -> list[Question]:
    """The usable questions; the others are counted in `skipped`."""
    places: dict[str, str] = {}
    for record in records:
        if record.id in places:
            raise ValueError(
                f"{record.where}: got the id {record.id!r}, which {places[record.id]} has too, expected "
                "each id once, since predictions are keyed by it; correct the data"
            )
        places[record.id] = record.where
        if record.is_impossible and record.answers:
            raise ValueError(
                f"{record.where}: is impossible but has {len(record.answers)} answers, expected none "
                "('plausible_answers' may hold wrong ones); correct the data"
            )
    is_labelled = any(record.answers or record.is_impossible for record in records)
    questions = []
    for record in records:
        question = Question(
            record.id,
            record.question,
            record.context,
            tuple(text for text, _ in record.answers),
            None,
            "",
            record.is_impossible,
            is_labelled,
        )
        if not is_labelled:
            questions.append(question)
        elif not record.question.strip() or not record.context.strip():
            skipped.add(split, "an empty text", record.where)
        elif record.is_impossible:
            questions.append(question)
        elif not record.answers:
            skipped.add(split, "a missing label", record.where)
        else:
            questions += _with_answer(question, record, split, skipped)
    return questions


def _with_answer(question: Question, record: _Record, split: str, skipped: Skipped) -> list[Question]:
    """The question with the first of its answers that is in the context; [] if none is, in training."""
    places = [_place(record.context, text, start) for text, start in record.answers]
    found = next((place for place in places if place is not None), None)
    if found is None:
        (skipped.add if split == "train" else skipped.keep)(split, "no answer in its context", record.where)
        return [] if split == "train" else [question]
    if any(place and place[0] != start for place, (_, start) in zip(places, record.answers, strict=True)):
        skipped.keep(split, "an answer re-found elsewhere in its context", record.where)
    start, end = found
    return [question._replace(start=start, answer=record.context[start:end])]


def _place(context: str, text: str, stated: int) -> tuple[int, int] | None:
    """Start and end of `text` in `context`, None if it is not there.

    At `stated`, else the nearest occurrence, else the nearest that differs only in letter case and white
    space.
    """
    if not text.strip():
        return None
    if stated >= 0 and context.startswith(text, stated):
        return stated, stated + len(text)
    loose = r"\s+".join(map(re.escape, text.split()))
    for pattern, flags in ((re.escape(text), 0), (loose, re.IGNORECASE)):
        # A lookahead, since occurrences may overlap.
        found = [match.span(1) for match in re.finditer(f"(?=({pattern}))", context, flags)]
        if found:
            return min(found, key=lambda span: abs(span[0] - stated))
    return None
