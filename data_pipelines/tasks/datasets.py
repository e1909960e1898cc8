"""Read labelled rows and sentences from TensorFlow Datasets in ArrayRecord format, without TensorFlow."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data_pipelines.tasks.records import Columns, Row, Sentence, as_sentence, as_text
from data_pipelines.tfds_directories import open_directory

# Features of tasks that TensorFlow Datasets publishes, so that a config only has to name the dataset.
PUBLISHED = {
    "glue/cola": Columns("sentence", "", "label"),
    "glue/sst2": Columns("sentence", "", "label"),
    "glue/mrpc": Columns("sentence1", "sentence2", "label"),
    "glue/qqp": Columns("question1", "question2", "label"),
    "glue/stsb": Columns("sentence1", "sentence2", "label"),
    "glue/mnli": Columns("premise", "hypothesis", "label"),
    "glue/mnli_matched": Columns("premise", "hypothesis", "label"),
    "glue/mnli_mismatched": Columns("premise", "hypothesis", "label"),
    "glue/ax": Columns("premise", "hypothesis", "label"),
    "glue/qnli": Columns("question", "sentence", "label"),
    "glue/rte": Columns("sentence1", "sentence2", "label"),
    "glue/wnli": Columns("sentence1", "sentence2", "label"),
    "xnli": Columns("premise", "hypothesis", "label"),
    "xtreme_xnli": Columns("premise", "hypothesis", "label"),  # MNLI's training examples in XNLI's languages
}
SPLIT_ORDER = ("train", "validation", "dev", "test")
READ_EXAMPLES = 1024
NUMBER = "idx"  # GLUE's feature with the number of an example in the published file


class Origin(NamedTuple):
    """The part of a dataset that a split comes from."""

    dataset: str  # "NAME/CONFIG", or "NAME" if there is no config
    split: str  # the dataset's name of it
    is_numbered: bool  # whether its examples have their published numbers, which give their order


class TaskDataset:
    """A prepared dataset: the names of its features, and the examples of each split."""

    def __init__(self, source: str, columns: Columns):
        """Open `source`, a name or a directory; for columns that are "" a published task has defaults.

        Raises:
          ValueError: it cannot be read, or lacks a feature.
        """
        import tensorflow_datasets as tfds  # slow to import

        self.source = source
        try:
            builder = open_directory(source) if Path(source).is_dir() else tfds.builder(source)
            if not builder.info.splits:
                raise ValueError("it is not prepared")
        except Exception as error:  # the library raises many types
            raise _unreadable(source, error) from error
        self.builder, features = builder, builder.info.features
        config = builder.builder_config
        self.name = f"{builder.name}/{config.name}" if config else builder.name
        known = PUBLISHED.get(self.name, Columns("", "", ""))
        self.columns = Columns(*(given or default for given, default in zip(columns, known, strict=True)))
        for key, name in self.columns._asdict().items():
            if name not in features and (name or key != "pair"):
                raise ValueError(
                    f"config.task.{key}: got {name!r}, expected a feature of {source}: {', '.join(features)}"
                )
        label = features[self.columns.label]
        label = label.feature if isinstance(label, tfds.features.Sequence) else label
        self.class_label = label if isinstance(label, tfds.features.ClassLabel) else None
        self.labels = tuple(label.names) if self.class_label else ()
        self.languages = next(
            (
                tuple(features[name].languages)
                for name in self.columns
                if name
                and isinstance(
                    features[name], (tfds.features.Translation, tfds.features.TranslationVariableLanguages)
                )
            ),
            (),
        )
        self.splits = sorted(builder.info.splits, key=split_place)
        self.is_numbered = (
            NUMBER in features
            and isinstance(features[NUMBER], tfds.features.Tensor)
            and features[NUMBER].shape == ()
            and np.issubdtype(features[NUMBER].np_dtype, np.integer)
        )

    def origin(self, split: str) -> Origin:
        """Where the examples of `split` come from."""
        return Origin(self.name, split, self.is_numbered)

    def read(
        self, split: str, *, language: str, tagging: bool, by_number: bool = False
    ) -> list[Row] | list[Sentence]:
        """All examples of `split`.

        Args:
          language: selects a translation.
          by_number: put examples that have their published number in its order. Predictions are identified
            by position, and preparing a dataset shuffles it.

        Raises:
          ValueError: no such split, or an example of the wrong form.
        """
        if self.languages and language not in self.languages:
            raise ValueError(
                f"config.task.language: got {language!r}, expected one of {', '.join(self.languages)} for "
                f"{self.source}; config.task.train_language is that of its training examples"
            )
        read = [
            self._sentence(example, where) if tagging else self._row(example, where, language)
            for where, example in (self._by_number(split) if by_number else self.examples(split))
        ]
        # Published test splits of regression tasks have -1 for an unknown label, as class labels do.
        if not tagging and split != "train" and all(row.label == -1 for row in read):
            read = [row._replace(label=None) for row in read]
        return read

    def examples(self, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """(location for messages, features) of all examples of `split`.

        Raises:
          ValueError: no such split, or it cannot be read.
        """
        try:
            if split not in self.splits:
                raise ValueError(f"no split {split!r}, found {', '.join(self.splits)}")
            examples = self.builder.as_data_source(split=split)
        except Exception as error:  # the library raises many types
            raise _unreadable(self.source, error) from error
        for start in range(0, len(examples), READ_EXAMPLES):
            indices = range(start, min(start + READ_EXAMPLES, len(examples)))
            for index, example in zip(indices, examples.__getitems__(list(indices)), strict=True):
                yield f"{self.source} {split}: example {index}", example

    def _by_number(self, split: str) -> Iterable[tuple[str, dict[str, Any]]]:
        examples = self.examples(split)
        return sorted(examples, key=lambda one: int(one[1][NUMBER])) if self.is_numbered else examples

    def _row(self, example: dict[str, Any], where: str, language: str) -> Row:
        text, pair = (
            as_text(_in_language(example[name], language), name, where) if name else None
            for name in (self.columns.text, self.columns.pair)
        )
        return Row(where, text, pair, self._label(example[self.columns.label], where))

    def _sentence(self, example: dict[str, Any], where: str) -> Sentence:
        words, tags = (
            list(value) if isinstance(value, (list, np.ndarray)) else value
            for value in (example[self.columns.text], example[self.columns.label])
        )
        tags = [self._label(tag, where) for tag in tags] if isinstance(tags, list) else tags
        return as_sentence(where, words, tags, self.columns)

    def _label(self, value: Any, where: str) -> Any:
        if self.class_label:
            return None if value < 0 else self.class_label.int2str(int(value))
        if isinstance(value, bytes):
            return as_text(value, self.columns.label, where)
        return value.item() if isinstance(value, np.generic) else value


def split_place(split: str) -> int:
    """The place of a split in the order of splits; "validation_matched" has that of "validation"."""
    return next((place for place, name in enumerate(SPLIT_ORDER) if split.startswith(name)), len(SPLIT_ORDER))


def _in_language(value: Any, language: str) -> Any:
    """The text in `language` of a Translation or TranslationVariableLanguages; other values unchanged."""
    if not isinstance(value, dict):
        return value
    if set(value) == {"language", "translation"}:
        value = {
            code.decode(): text for code, text in zip(value["language"], value["translation"], strict=True)
        }
    return value.get(language)


def _unreadable(source: str, error: Exception) -> ValueError:
    reason = str(error).partition("\n")[0]  # a list of every known dataset follows
    return ValueError(
        f"{source}: cannot be read ({reason}); expected the name or directory of a dataset already prepared "
        "with file_format='array_record'; check config.task.source"
    )
