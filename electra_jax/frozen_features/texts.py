"""The texts whose features are looked at: of tasks, the same with noise, and texts of other origin."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data_pipelines.problems import Problems
from data_pipelines.sample.trec_questions import with_files
from data_pipelines.tasks.examples import TextExample
from data_pipelines.tasks.load import TaskData, load_task
from data_pipelines.tasks.text_files import plain_ending, short_names
from data_pipelines.tasks.unlabelled import Source, Wanted, read_unlabelled
from electra_jax.configuration.checks import check_values, of_task
from electra_jax.finetuning.data_checks import (
    absent_class_notes,
    check_can_be_learned,
    check_metrics,
    commonest_class_notes,
    first_labelled_split,
)
from electra_jax.finetuning.task_finetuner import random_subset
from electra_jax.finetuning.task_types import TaskType, make_task_type
from electra_jax.frozen_features.noise import KINDS, add_noise

SUPPORTED = "classification"
OUTSIDE = "--outside"
DATA = "data"  # of the workdir: files of a sample


class TextSet(NamedTuple):
    """Texts, or pairs of texts, whose features are computed together."""

    name: str
    examples: Sequence[TextExample]
    max_length: int  # tokens kept of each
    every_layer: bool = False  # whether features of all layers are wanted

    @property
    def digest(self) -> str:
        """Of all that decides about the features, but the model."""
        texts = [[example.text, example.pair] for example in self.examples]
        settings = [texts, self.max_length, self.every_layer]
        return hashlib.sha256(json.dumps(settings).encode()).hexdigest()


class FrozenTask(NamedTuple):
    """A task of classification."""

    name: str
    labels: tuple[str, ...]
    task_type: TaskType
    split: str  # what the classifiers are measured on, the first held-out split with labels
    train: TextSet
    held_out: TextSet
    notes: Sequence[str]  # what its user should read

    @property
    def metric(self) -> str:
        return self.task_type.metrics[0]

    @property
    def train_labels(self) -> np.ndarray:
        """Of the training examples, [N]."""
        return np.array([example.label for example in self.train.examples])

    def score(self, predictions: Sequence[int]) -> float:
        """The metric of predictions for the held-out examples."""
        return self.task_type.score(self.held_out.examples, list(predictions))[self.metric]


def read_tasks(
    configs: Mapping[str, dict[str, Any]], workdir: Path, max_examples: int, *, every_layer: bool
) -> list[FrozenTask]:
    """The tasks of a configuration such as configs/evaluate.py.

    Args:
      configs: name → configuration of fine-tuning.
      workdir: where files of a sample are fetched to.
      max_examples: of each split; 0: as the configurations say.

    Raises:
      ValueError, OSError: a task is not of classification, or cannot be read; names all such tasks.
    """
    problems, tasks = Problems(), []
    for name, config in configs.items():
        if (kind := config["task"]["kind"]) != SUPPORTED:
            problems.add_text(
                f"task {name}: got a task of {kind}, expected {SUPPORTED}: --frozen fits classifiers of "
                "whole texts. Leave it out with tasks=A+B in the argument of --config."
            )
            continue
        try:
            tasks.append(_read_task(name, config, workdir, max_examples, every_layer=every_layer))
        except ValueError as error:
            problems.add_text(of_task(name, error))
        except OSError as error:
            problems.add(OSError(of_task(name, error)))
    problems.report()
    return tasks


def _read_task(
    name: str, config: dict[str, Any], workdir: Path, max_examples: int, *, every_layer: bool
) -> FrozenTask:
    check_values(config)
    task = config["task"] | {key: tuple(config["task"][key]) for key in ("labels", "metrics")}
    data = load_task(with_files(task, workdir / DATA))
    task_type = make_task_type(task, data.labels)
    split = _measured_split(task_type, data)
    check_can_be_learned(task_type, data)
    examples = {
        which: random_subset(data.splits[which], _least(task[f"max_{limit}_examples"], max_examples))
        for which, limit in (("train", "train"), (split, "eval"))
    }
    data = data._replace(splits=examples)
    check_metrics(task_type, examples[split])
    num_classes = len({example.label for example in examples["train"]})
    if not 2 <= num_classes < len(examples["train"]):
        raise ValueError(
            f"got {len(examples['train'])} training examples with {num_classes} classes, expected two "
            "classes or more, and more examples than classes. Raise --max_examples."
        )
    sets = [
        TextSet(f"{name}_{which}", some, task["max_length"], every_layer) for which, some in examples.items()
    ]
    notes = [
        *data.notes,
        *absent_class_notes(task_type, data),
        *commonest_class_notes(task_type, data),
    ]
    return FrozenTask(name, data.labels, task_type, split, *sets, notes)


def _measured_split(task_type: TaskType, data: TaskData) -> str:
    if "train" not in data.splits:
        raise ValueError(
            f"got the splits {list(data.splits)}, expected one to train on. Set task.train to a file."
        )
    if (found := first_labelled_split(task_type, data.splits)) is None:
        raise ValueError(
            f"got the splits {list(data.splits)}, expected one with labels besides train to measure on. Set "
            "task.validation to a file, or hold out a part of the training examples with "
            "validation_fraction=0.1 in the argument of --config."
        )
    return found


def _least(*limits: int) -> int:
    """The smallest limit; 0 is none."""
    return min(filter(None, limits), default=0)


def read_outside(places: Sequence[str], max_length: int, max_examples: int) -> Iterator[TextSet]:
    """Texts of other origin, from files with a text on each line; each file once. Of several with one name,
    each is named with the folders that tell them apart.

    Raises:
      ValueError, OSError: it is no such file, or holds no text.
    """
    names = short_names(list({Path(place).resolve(): place for place in places}.values()))
    for place, name in names.items():
        if plain_ending(place) != ".txt":
            raise ValueError(
                f"{OUTSIDE}: got {place}, expected a file that ends in .txt (or .txt.gz), with a text on "
                "each line. Of tasks in one command, each also has the texts of the others."
            )
        if not Path(place).is_file():
            raise FileNotFoundError(f"{OUTSIDE}: there is no file {place}.")
        inputs = read_unlabelled(Source(place, "text"), Wanted("text", ""))
        examples = [TextExample(one.text, None, None) for one in inputs if one.text.strip()]
        if not examples:
            raise ValueError(f"{OUTSIDE}: {place} has only blank lines, expected texts.")
        yield TextSet(name, random_subset(examples, max_examples), max_length)


def noisy(task: FrozenTask, rates: Sequence[float]) -> dict[tuple[str, float], TextSet]:
    """The held-out examples with every kind of noise at every rate."""
    return {
        (kind, rate): TextSet(
            f"{task.held_out.name}_{kind}_{rate:g}",
            [_with_noise(example, kind, rate) for example in task.held_out.examples],
            task.held_out.max_length,
        )
        for kind in KINDS
        for rate in rates
    }


def _with_noise(example: TextExample, kind: str, rate: float) -> TextExample:
    pair = None if example.pair is None else add_noise(example.pair, kind, rate)
    return example._replace(text=add_noise(example.text, kind, rate), pair=pair)
