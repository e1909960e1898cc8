"""Read questions about texts from files in SQuAD's format (v1.1 and v2.0) or from TensorFlow Datasets.

An answer that is not at its stated position is searched for in the rest of its context. Such answers, and
questions that cannot be used, are counted.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from data_pipelines.tasks.datasets import TaskDataset
from data_pipelines.tasks.records import Columns, Skipped, as_text
from data_pipelines.tasks.squad_files import FORMAT, Record, squad_records
from data_pipelines.tasks.text_files import check_is_file

QUESTION_COLUMNS = Columns("question", "context", "answers")  # the features of squad/v1.1 and squad/v2.0


class Question(NamedTuple):
    """A question, and the text that contains its answer.

    `context[start : start + len(answer)] == answer` unless `start` is None: the question is impossible or not
    labelled, or, outside training, no answer was found in the context.
    """

    id: str
    question: str
    context: str
    # Every correct answer as the data spells it, then those that the context spells in another Unicode form;
    # () if impossible or not labelled.
    answers: tuple[str, ...]
    start: int | None  # position in `context`, in characters, of the first answer that was found
    answer: str  # that answer as the context spells it, or ""
    is_impossible: bool  # the context does not contain an answer
    is_labelled: bool  # False for all questions of a split without answers


def read_squad_file(path: str, split: str, skipped: Skipped) -> list[Question]:
    """The questions of a file in SQuAD's format, plain or .gz; only the split "test" may lack every answer.

    Raises:
      ValueError: the file is damaged or has another form, an id occurs twice, or a split other than "test"
        has no answer.
      FileNotFoundError: no such file.
    """
    check_is_file(path)
    questions = _questions(squad_records(path), split, skipped)
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
    import tensorflow_datasets as tfds  # slow to import

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


def check_ids(split: str, questions: Sequence[Question], *, is_held_out: bool) -> None:
    """Raises ValueError if two files of a split have an id in common: predictions are keyed by it.

    Args:
      is_held_out: whether the questions come from the files of config.task.train.
    """
    counts = Counter(question.id for question in questions)
    twice = [name for name, count in counts.items() if count > 1]
    if not twice:
        return
    key, advice = split, "evaluate one file at a time, or correct the data"
    if is_held_out:
        key = "train"
        advice = (
            "correct the data, or set config.task.validation to a file in place of "
            "config.task.validation_fraction"
        )
    raise ValueError(
        f"config.task.{key}: got {len(twice)} ids of questions {'to hold out ' * is_held_out}that two of its "
        f"files have, such as {twice[0]!r}, expected each once, since predictions are keyed by it; {advice}"
    )


def _dataset_records(dataset: TaskDataset, name: str) -> Iterator[Record]:
    columns = dataset.columns
    for where, example in dataset.examples(name):
        name, answers = example["id"], example[columns.label]
        yield Record(
            where,
            str(name) if isinstance(name, np.integer) else as_text(name, "id", where),
            as_text(example[columns.text], columns.text, where),
            as_text(example[columns.pair], columns.pair, where),
            [
                (as_text(text, columns.label, where), int(at))
                for text, at in zip(answers["text"], answers["answer_start"], strict=True)
                if text  # an empty one is none, as in files
            ],
            "is_impossible" in example and bool(example["is_impossible"]),
        )


def _questions(records: list[Record], split: str, skipped: Skipped) -> list[Question]:
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
            if record.is_taken_for_impossible:
                skipped.keep(
                    split, "an empty list of answers, taken for no answer in its context", record.where
                )
            questions.append(question)
        elif not record.answers:
            skipped.add(split, "a missing label", record.where)
        else:
            questions += _with_answer(question, record, split, skipped)
    return questions


def _with_answer(question: Question, record: Record, split: str, skipped: Skipped) -> list[Question]:
    """The question with the first of its answers that is in the context; [] if none is, in training."""
    places = [_place(record.context, text, start) for text, start in record.answers]
    found = next((place for place in places if place is not None), None)
    if found is None:
        (skipped.add if split == "train" else skipped.keep)(split, "no answer in its context", record.where)
        return [] if split == "train" else [question]
    if any(place and place[0] != start for place, (_, start) in zip(places, record.answers, strict=True)):
        skipped.keep(split, "an answer re-found elsewhere in its context", record.where)
    spelled = [place and record.context[slice(*place)] for place in places]
    # Predictions are cut from the context, and scores even out letter case and white space alone.
    others = [
        inside
        for inside, given in zip(spelled, question.answers, strict=True)
        if inside and inside.lower().split() != given.lower().split()
    ]
    start, end = found
    answers = tuple(dict.fromkeys([*question.answers, *others])) if others else question.answers
    return [question._replace(answers=answers, start=start, answer=record.context[start:end])]


def _place(context: str, text: str, stated: int) -> tuple[int, int] | None:
    """Start and end of `text` in `context`, None if it is not there.

    At `stated`, else the nearest occurrence, else the nearest that differs only in letter case and white
    space, else the nearest in another Unicode form.
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
    letters, spans = _compatible(context)
    wanted = _compatible(text)[0].strip()
    found = [
        (spans[match.start()][0], spans[match.start() + len(wanted) - 1][1])
        for match in re.finditer(f"(?={re.escape(wanted)})", letters)
    ]
    return min(found, key=lambda span: abs(span[0] - stated), default=None)


def _compatible(text: str) -> tuple[str, list[tuple[int, int]]]:
    """`text` as NFKC without letter case, one space for each run of white space, and the span in `text` of
    each of these letters."""
    starts = [at for at, letter in enumerate(text) if not _belongs_to_letter_before(letter)]
    letters, spans = [], []
    for start, end in zip(starts, [*starts[1:], len(text)], strict=True):
        for letter in unicodedata.normalize("NFKC", text[start:end]).casefold():
            if not (letter.isspace() and letters and letters[-1] == " "):
                letters.append(" " if letter.isspace() else letter)
                spans.append((start, end))
    return "".join(letters), spans


def _belongs_to_letter_before(letter: str) -> bool:
    """Whether it is a combining mark, a half-width voicing mark of Japanese, or a vowel or final consonant of
    a decomposed Korean syllable."""
    return unicodedata.combining(letter) > 0 or letter in "\uff9e\uff9f" or "\u1160" <= letter <= "\u11ff"
