"""Load a task's labelled data (classification, regression, tagging, question answering or embeddings) from
TensorFlow Datasets or files.

A row that cannot be used is skipped and counted in `TaskData.notes`; an unknown label is an error. Which
values mean that there is no label is in label_values.py.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from data_pipelines.tasks.datasets import Origin, TaskDataset, split_place
from data_pipelines.tasks.embedding_examples import (
    SQUAD,
    EmbeddingExample,
    columns_of,
    ending_of,
    read_embedding_file,
)
from data_pipelines.tasks.examples import (
    TaggedExample,
    TextExample,
    class_examples,
    labels_of,
    number_examples,
    with_spelled_labels,
)
from data_pipelines.tasks.files import found_columns, read_rows, read_sentences
from data_pipelines.tasks.hold_out import VALIDATION, with_validation
from data_pipelines.tasks.label_values import Classes, found_classes, listed_classes
from data_pipelines.tasks.labels import TASK_TYPES
from data_pipelines.tasks.questions import (
    QUESTION_COLUMNS,
    Question,
    check_ids,
    questions_of_dataset,
    read_squad_file,
)
from data_pipelines.tasks.records import Columns, Skipped, labelled_alike
from data_pipelines.tasks.text_files import plain_ending

SPLITS = ("train", "validation", "test")
TFDS_PREFIX = "tfds:"
ALL_LANGUAGES = "all"
TRAIN_LANGUAGE = "en"  # the default of config.task.train_language, for data with translations alone


class TaskData(NamedTuple):
    """A task's examples by split."""

    labels: tuple[str, ...]  # () for regression
    splits: dict[
        str, list[TextExample] | list[TaggedExample] | list[Question] | list[EmbeddingExample]
    ]  # training first, then validation, then test
    notes: list[str]  # skipped examples, one sentence per split and reason
    origins: Mapping[str, Origin] = MappingProxyType({})  # of splits that are one split of one dataset


def load_task(task: dict[str, Any]) -> TaskData:
    """The examples of a task: TextExamples, TaggedExamples, Questions or EmbeddingExamples.

    Args:
      task: config.task. `source` names a TensorFlow Dataset, all of whose splits are read. `train`,
        `validation` and `test` are files or "tfds:NAME_OR_DIRECTORY[@SPLIT]", separated by commas; together
        with a source they replace its splits or add one: XNLI has no training split, so it takes
        train="tfds:glue/mnli". Labels are those of `labels`, else the dataset's, else those of the training
        split, sorted (numbers by value). A dataset in several languages is trained on in `train_language`
        ("all" for every language) and evaluated in `language`. `validation_fraction` is the share of the
        training examples that become the validation split. Splits to evaluate on are in the order of the
        published numbers of their examples, if the dataset has them, as GLUE does.

    Raises:
      ValueError: a wrong setting, damaged data, or an unknown label. FileNotFoundError: no such file.
    """
    _check(task)
    skipped = Skipped()
    origins: Mapping[str, Origin] = MappingProxyType({})
    if task["kind"] == "question_answering":
        labels, splits = (), _read_questions(task, skipped)
    elif task["kind"] == "embedding":
        labels, splits = (), _read_embedding_examples(task, skipped)
    else:
        labels, splits, origins = _read_labelled(task, skipped)
    for split, examples in splits.items():
        if not examples:
            raise ValueError(
                f"config.task: no example is left in {split}, expected some; "
                f"{'; '.join(skipped.reasons(split)) or 'it has no rows'}; check its text and label columns"
            )
    if task["validation_fraction"]:
        splits = with_validation(splits, task["validation_fraction"])
    if task["kind"] == "question_answering":
        for split in (split for split in splits if split != "train"):
            is_held_out = split == VALIDATION and bool(task["validation_fraction"])
            check_ids(split, splits[split], is_held_out=is_held_out)
    return TaskData(labels, splits, skipped.sentences(), origins)


def _places(task: dict[str, Any], open_dataset: Callable[[str], Any]) -> dict[str, list[tuple[Any, str]]]:
    """Split → its sources: files as (path, split), open datasets as (dataset, its split)."""
    places: dict[str, list[tuple[Any, str]]] = {}
    if task["source"]:
        dataset = open_dataset(task["source"])
        places = {split: [(dataset, split)] for split in dataset.splits}
    for split in SPLITS:
        given: list[tuple[Any, str]] = []
        for place in paths_of(task[split]):
            if place.startswith(TFDS_PREFIX):
                name, _, other = place.removeprefix(TFDS_PREFIX).partition("@")
                given.append((open_dataset(name), other or split))
            else:
                given.append((place, split))
        if given:
            places[split] = given
    return {split: places[split] for split in sorted(places, key=split_place)}


def paths_of(setting: str) -> list[str]:
    """The files and datasets that config.task.train, validation or test lists."""
    return [path.strip() for path in setting.split(",") if path.strip()]


def _read_questions(task: dict[str, Any], skipped: Skipped) -> dict[str, list[Question]]:
    places = _places(task, lambda name: TaskDataset(name, QUESTION_COLUMNS))
    questions: dict[str, list[Question]] = {}
    for split, parts in places.items():
        read = []
        for place, name in parts:
            if isinstance(place, TaskDataset):
                where, some = f"{place.source} {name}", questions_of_dataset(place, name, split, skipped)
            else:
                where, some = place, read_squad_file(place, split, skipped)
            read += [(where, question) for question in some]
        questions[split] = labelled_alike(split, read, lambda question: question.is_labelled, skipped)
    return questions


def _read_embedding_examples(task: dict[str, Any], skipped: Skipped) -> dict[str, list[EmbeddingExample]]:
    columns = columns_of(task)
    examples = {}
    for split in (split for split in SPLITS if task[split]):
        read = [
            (path, example)
            for path in paths_of(task[split])
            for example in read_embedding_file(path, columns, split, skipped)
        ]
        examples[split] = labelled_alike(split, read, lambda example: example.label is not None, skipped)
    return examples


def _origins(places: dict[str, list[tuple[Any, str]]]) -> dict[str, Origin]:
    """Those of the splits that are a single split of a single dataset."""
    return {
        split: parts[0][0].origin(parts[0][1])
        for split, parts in places.items()
        if len(parts) == 1 and isinstance(parts[0][0], TaskDataset)
    }


def _read_labelled(
    task: dict[str, Any], skipped: Skipped
) -> tuple[tuple[str, ...], dict[str, list], dict[str, Origin]]:
    """(labels, examples by split, origins) of classification, regression and tagging."""
    tagging, columns = task["kind"] == "tagging", Columns(task["text"], task["pair"], task["label"])
    places = _places(task, lambda name: TaskDataset(name, columns))
    datasets = [place for parts in places.values() for place, _ in parts if isinstance(place, TaskDataset)]
    if task["language"] and not any(dataset.languages for dataset in datasets):
        raise ValueError(
            f"config.task.language: got {task['language']!r}, expected '', since this data has one language"
        )
    trained = [place for place, _ in places.get("train", []) if isinstance(place, TaskDataset)]
    if task["train_language"] != TRAIN_LANGUAGE and not any(dataset.languages for dataset in trained):
        raise ValueError(
            f"config.task.train_language: got {task['train_language']!r}, expected the default "
            f"{TRAIN_LANGUAGE!r}, since this training data has one language, whichever it is. Leave it out, "
            "or set config.task.train to a dataset with translations"
        )
    file_columns = datasets[0].columns if datasets else columns
    records: dict[str, list] = {}
    for split, parts in places.items():
        records[split] = []
        for place, name in parts:
            if isinstance(place, TaskDataset):
                for language in _languages(task, split, place):
                    # Training examples keep the order in which they are stored.
                    records[split] += place.read(
                        name, language=language, tagging=tagging, by_number=split != "train"
                    )
            else:
                read = read_sentences if tagging else read_rows
                records[split] += read(place, file_columns, split, skipped)
    origins = _origins(places)
    if task["kind"] == "regression":
        numbers = {split: list(number_examples(split, rows, skipped)) for split, rows in records.items()}
        return (), numbers, origins
    records = {split: [with_spelled_labels(row) for row in rows] for split, rows in records.items()}
    classes = _classes(task, datasets, records)
    is_listed = bool(task["labels"])
    examples = {
        split: list(class_examples(split, rows, classes, skipped, is_listed=is_listed))
        for split, rows in records.items()
    }
    return classes.names, examples, origins


def _languages(task: dict[str, Any], split: str, dataset: TaskDataset) -> Sequence[str]:
    """The languages in which a split is read; one that is ignored if the dataset has no translations."""
    if split != "train":
        return (task["language"],)
    return (
        dataset.languages
        if dataset.languages and task["train_language"] == ALL_LANGUAGES
        else (task["train_language"],)
    )


def _check(task: dict[str, Any]) -> None:
    """Raises ValueError for settings that are wrong or do not fit together."""
    if task["kind"] not in TASK_TYPES:
        raise ValueError(f"config.task.kind: got {task['kind']!r}, expected one of {', '.join(TASK_TYPES)}")
    if not task["source"] and not task["train"]:
        raise ValueError(
            "config.task.train: got '' and no config.task.source, expected a file or a dataset; set one of "
            "them"
        )
    if task["kind"] == "regression" and task["labels"]:
        raise ValueError(
            f"config.task.labels: got {tuple(task['labels'])!r}, expected () for regression (numbers)"
        )
    _listed(task)
    if task["kind"] == "tagging" and task["pair"]:
        raise ValueError(
            f"config.task.pair: got {task['pair']!r}, expected '' for tagging, which takes single sentences"
        )
    places = [path for split in SPLITS for path in paths_of(task[split])]
    files = [path for path in places if not path.startswith(TFDS_PREFIX)]
    if task["kind"] == "embedding":
        _check_embedding(task, files)
        return
    # A dataset gives its columns' names to the files beside it.
    have_names = task["source"] or len(files) < len(places) or task["kind"] == "question_answering"
    nameless = [path for path in files if plain_ending(path) != ".conllu"]
    empty = [key for key in ("text", "label") if not task[key]]
    if nameless and empty and not have_names:
        found = found_columns(nameless[0], tagging=task["kind"] == "tagging")
        raise ValueError(
            f"{' and '.join(f'config.task.{key}' for key in empty)}: got '', expected the column or field of "
            f"{nameless[0]} that holds it; {found}"
        )


def _check_embedding(task: dict[str, Any], files: Sequence[str]) -> None:
    places = [path for split in SPLITS for path in paths_of(task[split])]
    if task["source"] or len(files) < len(places):
        raise ValueError(
            f"config.task: got {task['source'] or next(path for path in places if path not in files)!r}, "
            "expected files: pairs of texts for embeddings are not read of TensorFlow Datasets"
        )
    tables = [path for path in files if ending_of(path) != SQUAD]
    given = [key for key in ("text", "pair", "negatives", "label") if task[key]]
    if given and not tables:
        raise ValueError(
            f"config.task.{given[0]}: got {task[given[0]]!r} with files in SQuAD's format, expected '': they "
            "have no columns. Leave it out"
        )
    _check_numbers(task)
    if tables and not task["text"]:
        raise ValueError(
            f"config.task.text: got '', expected the column or field of {tables[0]} that holds it; "
            f"{found_columns(tables[0], tagging=False)}"
        )
    splits = SPLITS if task["validation_fraction"] else SPLITS[1:]
    searched = [path for split in splits for path in paths_of(task[split]) if path in tables]
    if searched and not task["pair"]:
        raise ValueError(
            f"config.task.pair: got '', expected the column or field of {searched[0]} that holds the text "
            f"which belongs to the first one; {found_columns(searched[0], tagging=False)}. Only a file to "
            "train on, of which nothing is held out, may lack it"
        )


def _check_numbers(task: dict[str, Any]) -> None:
    """Raises ValueError if config.task.label names numbers that no split to evaluate on has."""
    if not task["label"]:
        return
    if task["validation_fraction"]:
        raise ValueError(
            f"config.task.validation_fraction: got {task['validation_fraction']} with config.task.label="
            f"{task['label']!r}, expected 0: numbers for the similarity of two texts are read of files to "
            "evaluate on alone. Set config.task.validation to such a file, or leave out config.task.label"
        )
    for split in SPLITS[1:]:
        for path in paths_of(task[split]):
            if plain_ending(path) == SQUAD:
                raise ValueError(
                    f"config.task.{split}: got {path} with config.task.label={task['label']!r}, expected a "
                    "file with that column: SQuAD's format has no numbers for the similarity of two texts. "
                    "Give another file, or leave out config.task.label"
                )


def _listed(task: dict[str, Any]) -> Classes:
    return listed_classes([str(label) for label in task["labels"]], tagging=task["kind"] == "tagging")


def _classes(task: dict[str, Any], datasets: Sequence[TaskDataset], records: dict[str, list]) -> Classes:
    """The classes or tags of the task; the labels of `records` are spelled."""
    tagging = task["kind"] == "tagging"
    if task["labels"]:
        return _listed(task)
    of_dataset = next((dataset.labels for dataset in datasets if dataset.labels), ())
    if of_dataset:
        return listed_classes(of_dataset, tagging=tagging)
    if "train" not in records:
        raise ValueError(
            "config.task.labels: got () without a training split to collect them from, expected the labels"
        )
    counts = {
        split: Counter(label for row in rows for label in labels_of(row) if label is not None)
        for split, rows in records.items()
    }
    return found_classes(counts, tagging=tagging)
