"""Questions on texts, out of files in SQuAD's format (v1.1 and v2.0) or of datasets that TensorFlow Datasets
made of them.

An answer that is not where the data says is looked for in the rest of its context. What becomes of it, and
what cannot be used, is counted.
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
    """A question, and the text that its answer is a part of.

    `context[start : start + len(answer)] == answer` where there is a start. There is none where the question
    is impossible or not labelled, and, outside training, where no answer was found in the context.
    """

    id: str
    question: str
    context: str
    answers: tuple[
        str, ...
    ]  # every text that counts as right, as the data spells it; () for impossible or not labelled
    start: int | None  # character of `context` at which the first answer that was found in it starts
    answer: str  # that answer as the context spells it, "" for none
    is_impossible: bool  # the context does not answer it
    is_labelled: bool  # False throughout a split whose answers are not told


class _Record(NamedTuple):
    """A question as its source has it."""

    where: str
    id: str
    question: str
    context: str
    answers: list[tuple[str, int]]  # text and start; [] where nothing is said of them
    is_impossible: bool


def read_squad_file(path: str, split: str, skipped: Skipped) -> list[Question]:
    """The questions of a file in SQuAD's format, plain or .gz; only the split "test" may lack every answer.

    Raises: ValueError: the file is damaged or of another form, an id comes twice, or a split other than
      "test" has no answer. FileNotFoundError: no such file.
    """
    check_is_file(path)
    questions = _questions(list(_file_records(path)), split, skipped)
    if split != "test" and questions and not questions[0].is_labelled:
        raise ValueError(
            f"{path}: no question has an answer, expected some; only a file to test on may go without. "
            f"{FORMAT}"
        )
    return questions


def questions_of_dataset(dataset: TaskDataset, name: str, split: str, skipped: Skipped) -> list[Question]:
    """The questions of squad/v1.1, squad/v2.0, or another dataset with their features, opened with
    QUESTION_COLUMNS.

    Args:
      name: the dataset's own split that is read.
      split: what it is read for: "train", "validation" or "test".

    Raises: ValueError: no such split or features, it cannot be read, an id comes twice, or there is no answer
      to train on.
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
                where = f"{place}.qas[{at}]"
                answers = _field(question, "answers", list, where) if "answers" in question else []
                yield _Record(
                    where,
                    _field(question, "id", str, where),
                    _field(question, "question", str, where),
                    context,
                    [
                        (
                            _field(answer, "text", str, f"{where}.answers[{answer_at}]"),
                            _field(answer, "answer_start", int, f"{where}.answers[{answer_at}]"),
                        )
                        for answer_at, answer in enumerate(answers)
                    ],
                    "is_impossible" in question and _field(question, "is_impossible", bool, where),
                )


def _field(record: Any, key: str, kind: type, where: str) -> Any:
    """The value of `key`, which must be of just this kind."""
    if not isinstance(record, dict):
        raise ValueError(
            f"{where}: got {_type_name(record)}, expected an object with the field {key!r}. {FORMAT}"
        )
    if key not in record:
        raise ValueError(
            f"{where}: no field {key!r}, found {', '.join(map(repr, record)) or 'no fields'}. {FORMAT}"
        )
    value = record[key]
    if type(value) is not kind:
        raise ValueError(f"{where}: {key!r} is {_type_name(value)}, expected {TYPE_NAMES[kind]}. {FORMAT}")
    return as_text(value, key, where) if kind is str else value


def _type_name(value: Any) -> str:
    return (
        "null"
        if value is None
        else TYPE_NAMES[type(value)]
        if type(value) in TYPE_NAMES
        else f"a {type(value).__name__}"
    )


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
    """The questions that can be used, and a count of the others."""
    places: dict[str, str] = {}
    for record in records:
        if record.id in places:
            raise ValueError(
                f"{record.where}: got the id {record.id!r}, which {places[record.id]} has too, expected "
                "each id once, since predictions go by it; correct the data"
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
    """The question with the first of its answers that is in the context; in training none where there is
    none."""
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
    """Start and end of `text` in `context`: at `stated`, else the nearest, else that but for letter case and
    white space."""
    if not text.strip():
        return None
    if stated >= 0 and context.startswith(text, stated):
        return stated, stated + len(text)
    loose = r"\s+".join(map(re.escape, text.split()))
    for pattern, flags in ((re.escape(text), 0), (loose, re.IGNORECASE)):
        # A lookahead, for occurrences may overlap.
        found = [match.span(1) for match in re.finditer(f"(?=({pattern}))", context, flags)]
        if found:
            return min(found, key=lambda span: abs(span[0] - stated))
    return None
