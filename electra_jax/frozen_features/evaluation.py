"""Frozen features of several models on several tasks: `python -m electra_jax.evaluate --frozen …`.

Each model reads each text once: its features are kept under the working directory, and the same command again
computes what is missing. Only classifiers of scikit-learn are trained.
"""

import hashlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from data_pipelines.json_files import write_json
from data_pipelines.progress import make_progress
from data_pipelines.tasks.encoding import EncodedExample, encode_examples
from data_pipelines.tokenizers.report import unknown_warning
from electra_jax.configuration.extras import require_extra
from electra_jax.distributed.mesh import make_mesh
from electra_jax.finetuning.encoders import PretrainedEncoder, check_start, load_encoder
from electra_jax.finetuning.experiment_directory import TOKENIZERS
from electra_jax.finetuning.folders import folder_names
from electra_jax.frozen_features.features import SEED, FeatureReader
from electra_jax.frozen_features.measuring import FeaturesOfTask, Noise, measure, work_of
from electra_jax.frozen_features.store import FEATURES, RESULTS, FrozenModel, Store
from electra_jax.frozen_features.tables import Measured, plot, table_lines
from electra_jax.frozen_features.texts import DATA, FrozenTask, TextSet, noisy, read_outside, read_tasks
from electra_jax.huggingface.reference import in_float32
from electra_jax.runs.only_writer import Check
from electra_jax.runs.result_places import Results

FLAG = "--init_from"
RESULTS_FILE, PLOTS = "frozen_features.json", "plots"
PICTURE = f"{PLOTS}/frozen_features.png"
FROZEN = Results((RESULTS_FILE, PICTURE), (PLOTS, FEATURES, RESULTS, TOKENIZERS, DATA))


class Options(NamedTuple):
    """What to look at; the fields are the command's flags."""

    init_from: Sequence[str]
    workdir: Path
    json: str  # "": only in the working directory
    labelled: Sequence[int]  # numbers of labelled examples, besides all
    seeds: int  # subsets of each number
    noise: Sequence[float]  # rates
    outside: Sequence[str]  # files
    every_layer: bool
    max_examples: int  # of each split and file; 0: all


class _Texts(NamedTuple):
    """All texts of a command."""

    tasks: list[FrozenTask]
    outside: dict[str, dict[str, TextSet]]  # task → name → texts of other origin
    noisy: dict[str, dict[Noise, TextSet]]  # task → noise → its held-out examples

    def sets(self) -> list[TextSet]:
        """Each set once."""
        found = [one for task in self.tasks for one in (task.train, task.held_out)]
        for parts in (*self.outside.values(), *self.noisy.values()):
            found += parts.values()
        return list({one.digest: one for one in found}.values())


def evaluate_frozen(configs: Mapping[str, dict[str, Any]], options: Options, check: Check) -> Iterator[str]:
    """Measure all models on all tasks, write the results and their picture; the lines for the terminal.

    Args:
      configs: name of a task → configuration of fine-tuning, as in configs/evaluate.py.
      check: raises an error if another command writes the directory by now (`only_writer`).

    Raises:
      ValueError, OSError: a task, a file or a model cannot be read; they come before any work.
      FloatingPointError: a model's numbers are not finite.
      ImportError: the packages of the extra "finetune" are not installed.
    """
    require_extra("finetune", "--frozen")
    texts = _read_texts(configs, options)
    names = list(dict.fromkeys(options.init_from))
    for name in names:  # so that a wrong name is an error at once
        check_start(name)
    store = Store(options.workdir, names)
    models = _read_features(names, texts.sets(), store, options, check)
    results = _measure_all(models, texts, store, options, check)
    contents = {
        "settings": {key: getattr(options, key) for key in ("labelled", "seeds", "noise", "max_examples")},
        "tasks": {task.name: _described(task) for task in texts.tasks},
        "results": [_of(one) for one in results],
    }
    check()
    for path in filter(None, (options.workdir / RESULTS_FILE, options.json)):
        write_json(Path(path), contents, makes_directories=True)
    plot(results, options.workdir / PICTURE)
    yield from table_lines(results)
    yield str(options.workdir / RESULTS_FILE)


def _read_texts(configs: Mapping[str, dict[str, Any]], options: Options) -> _Texts:
    tasks = read_tasks(configs, options.workdir, options.max_examples, every_layer=options.every_layer)
    longest = max(task.train.max_length for task in tasks)
    files = list(read_outside(options.outside, longest, options.max_examples))
    others = {task.name: task.held_out for task in tasks}
    outside = {
        task.name: {name: texts for name, texts in others.items() if name != task.name}
        | {texts.name: texts for texts in files}
        for task in tasks
    }
    return _Texts(tasks, outside, {task.name: noisy(task, options.noise) for task in tasks})


def _read_features(
    names: Sequence[str], sets: Sequence[TextSet], store: Store, options: Options, check: Check
) -> list[FrozenModel]:
    """Let each model read what it has not read; one model is in memory at a time."""
    models, mesh = [], make_mesh({"data": -1, "fsdp": 1, "tensor": 1})
    caches = folder_names(names)
    total = sum(len(texts.examples) for texts in sets)
    with make_progress(total * len(names), "computing features", unit="text") as progress:
        progress.update(0)
        for number, name in enumerate(names):
            encoder = load_encoder(name, options.workdir / TOKENIZERS / caches[name])
            model = _identify(encoder)
            models.append(model)
            due = [texts for texts in sets if not store.has_features(model, texts)]
            done = total * (number + 1) - sum(len(texts.examples) for texts in due)
            if len(due) < len(sets):
                print(f"{name}: {len(sets) - len(due)} of {len(sets)} sets are computed", file=sys.stderr)
            reader = FeatureReader(encoder, mesh) if due else None
            for texts in due:
                rows = _encoded(encoder, texts)
                count = len(texts.examples)
                tell = lambda share, done=done, count=count, texts=texts: progress.update(
                    done + int(share * count), {"texts": texts.name}
                )
                try:
                    features = reader.read(rows, tell, every_layer=texts.every_layer)
                except FloatingPointError as error:
                    raise FloatingPointError(f"{FLAG}: {name}, {texts.name}: {error}") from error
                check()
                store.keep_features(model, texts, features)
                done += count
            del encoder, reader  # before the next model is read
    return models


def _identify(encoder: PretrainedEncoder) -> FrozenModel:
    weights = encoder.digest if encoder.params is not None else f"new, seed {SEED}"
    parts = [weights, repr(in_float32(encoder.config)), encoder.tokenizer.fingerprint, encoder.trained_length]
    digest = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
    return FrozenModel(encoder.name, encoder.step, digest, encoder.config.num_layers + 1)


def _encoded(encoder: PretrainedEncoder, texts: TextSet) -> list[EncodedExample]:
    """Ids of each text; prints how many did not fit."""
    # Positions beyond the rows of the training are not trained.
    limits = [texts.max_length, encoder.config.max_position_embeddings, encoder.trained_length]
    length = min(filter(None, limits))
    rows, num_cut = encode_examples(encoder.tokenizer, texts.examples, length)
    if num_cut:
        phrase = f"{num_cut:,} of {len(rows):,} texts cut to {length} tokens"
        print(f"{encoder.name}: {texts.name}: {phrase}", file=sys.stderr)
    if warning := unknown_warning([row.ids for row in rows], encoder.tokenizer.special):
        print(f"{encoder.name}: {texts.name}: {warning}", file=sys.stderr)
    return rows


def _measure_all(
    models: Sequence[FrozenModel], texts: _Texts, store: Store, options: Options, check: Check
) -> list[Measured]:
    cases = [(task, model) for task in texts.tasks for model in models]
    sizes = {
        (task.name, model): work_of(
            task, options.labelled, options.seeds, (model.num_states - 1) * options.every_layer
        )
        for task, model in cases
    }
    results, done = [], 0
    with make_progress(sum(sizes.values()), "fitting classifiers", unit="example") as progress:
        progress.update(0)
        for task, model in cases:
            made_from = _made_from(task, texts, options)
            result = store.result(model, task.name, made_from)
            if result is None:
                count = _Count(progress, done, {"task": task.name, "model": model.name})
                features = _features_of(store, model, task, texts)
                result = measure(task, features, options.labelled, options.seeds, count.add)
                check()
                store.keep_result(model, task.name, made_from, result)
            results.append(Measured(task, model, result))
            done += sizes[task.name, model]
    return results


class _Count:
    """Adds up what is done."""

    def __init__(self, progress: Any, done: int, words: Mapping[str, str]):
        self._progress, self._done, self._words = progress, done, words

    def add(self, number: int) -> None:
        self._done += number
        self._progress.update(self._done, self._words)


def _made_from(task: FrozenTask, texts: _Texts, options: Options) -> list[Any]:
    """All that decides about the results, but the model."""
    labels = [[example.label for example in one.examples] for one in (task.train, task.held_out)]
    outside = {name: one.digest for name, one in texts.outside[task.name].items()}
    rates = [[*noise, one.digest] for noise, one in texts.noisy[task.name].items()]
    digests = [task.train.digest, task.held_out.digest, outside, rates]
    return [labels, digests, task.labels, task.metric, list(options.labelled), options.seeds]


def _features_of(store: Store, model: FrozenModel, task: FrozenTask, texts: _Texts) -> FeaturesOfTask:
    read = lambda some: {key: store.features(model, one) for key, one in some.items()}
    return FeaturesOfTask(
        store.features(model, task.train),
        store.features(model, task.held_out),
        read(texts.outside[task.name]),
        read(texts.noisy[task.name]),
    )


def _described(task: FrozenTask) -> dict[str, Any]:
    return {
        "metric": task.metric,
        "labels": list(task.labels),
        "split": task.split,
        "num_train": len(task.train.examples),
        "num_held_out": len(task.held_out.examples),
        "notes": list(task.notes),
    }


def _of(one: Measured) -> dict[str, Any]:
    model = {"model": one.model.name, "step": one.model.step, "digest": one.model.digest}
    return {"task": one.task.name} | model | one.result
