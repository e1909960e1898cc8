"""Fine-tune encoders on a task and compare them: `python -m electra_jax.finetune --config=configs/finetune.py:task=sst2 …`.

    python -m electra_jax.finetune --config=configs/finetune.py:task=trec6 --workdir=runs/trec6 --seeds=5 \\
        --init_from=runs/debug,random:runs/debug

--init_from names one or more starts: run directories, Hugging Face directories, or random:DIR for a directory's shapes and
tokenizer with fresh weights. Each is fine-tuned from every seed. results.json is written as each is done, and the same command
again goes on where it stopped. Then come a table of medians with the paired difference to the first start, a plot, and every
run's predictions.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import app, flags
from jax.sharding import Mesh

from data_pipelines.sample import trec
from data_pipelines.tasks import TaggedExample, TaskData, TextExample, encode_examples, load_task
from electra_jax import command_line
from electra_jax.command_line import define_flags, parse_flags
from electra_jax.distributed.mesh import make_mesh
from electra_jax.finetuning.initial import load_initial
from electra_jax.finetuning.metrics import score
from electra_jax.finetuning.protocol import Trainer
from electra_jax.finetuning.results import Result, plot, table, to_json
from electra_jax.pretrain import silence_libraries
from electra_jax.training.run_directory import check_run_directory, write_json

SAMPLE = "sample:trec"
RESULTS_FILE = "results.json"
OURS = ("metrics", "max_length", "label_scale", "swaps_pairs")  # of config.task: what `load_task` need not know


def run(config: dict[str, Any], workdir: Path, starts: list[str], num_seeds: int) -> list[Result]:
    """Every result that is not there yet; all of them, by seed.

    Raises:
      ValueError, OSError: the task, a start or the settings do not fit together; see `load_task`, `load_initial`.
      FloatingPointError: a run diverged.
    """
    task = config["task"] | {key: tuple(config["task"][key]) for key in ("labels", "metrics")}
    config = config | {"task": task}
    check_run_directory(workdir, {"config": config})
    data = load_task(_prepared(task, workdir))
    if "train" not in data.splits:
        raise ValueError(f"config.task: got the splits {list(data.splits)}, expected one to train on. Set config.task.train "
                         "to a file, or to tfds:NAME@SPLIT.")
    labelled = [split for split, examples in data.splits.items() if split != "train" and _is_labelled(examples[0])]
    if not labelled:
        raise ValueError(f"config.task: none of the splits {list(data.splits)} but train has labels, expected one to evaluate "
                         "on. Set config.task.validation.")
    for note in data.notes:
        print(note, file=sys.stderr)
    mesh = make_mesh(config["mesh"])
    if config["train"]["batch_size"] % mesh.size:
        raise ValueError(f"config.train.batch_size: got {config['train']['batch_size']}, expected a multiple of the "
                         f"{mesh.size} devices. Change it, or config.mesh.")
    workdir.mkdir(parents=True, exist_ok=True)
    write_json(workdir / "config.json", {"config": config})
    results = _read_results(workdir)
    done = {(result.model, result.seed) for result in results}
    for start in starts:
        missing = [seed for seed in range(num_seeds) if (start, seed) not in done]
        if missing:
            for result in _finetune(start, missing, config, data, labelled, workdir, mesh):
                results.append(result)
                write_json(workdir / RESULTS_FILE, to_json(results))  # whole or not at all
            jax.clear_caches()  # every start compiles its own steps
    wanted = [(start, seed) for start in starts for seed in range(num_seeds)]
    return sorted((result for result in results if (result.model, result.seed) in wanted),
                  key=lambda result: wanted.index((result.model, result.seed)))


def _prepared(task: dict[str, Any], workdir: Path) -> dict[str, Any]:
    """config.task as `load_task` wants it: the sample is fetched first."""
    fields = {key: value for key, value in task.items() if key not in OURS}
    if task["source"] != SAMPLE:
        return fields
    try:
        paths = trec.fetch(workdir / "data")
    except RuntimeError as error:
        raise OSError(str(error)) from error
    return fields | {"source": "", "train": str(paths["train"]), "test": str(paths["test"])}


def _is_labelled(example: TextExample | TaggedExample) -> bool:
    """All examples of a split have a label, or none has."""
    return example.tags[0] >= 0 if isinstance(example, TaggedExample) else example.label is not None


def _finetune(start: str, seeds: list[int], config: dict[str, Any], data: TaskData, labelled: list[str], workdir: Path,
              mesh: Mesh) -> Iterator[Result]:
    """Fine-tune one start from the seeds, and keep what comes out."""
    initial = load_initial(start, workdir / "tokenizers" / _slug(start))
    max_length = min(config["task"]["max_length"], initial.config.max_position_embeddings)
    encoded = {}
    for split, examples in data.splits.items():
        if split == "train" and config["task"]["swaps_pairs"]:
            examples = [*examples, *(example._replace(text=example.pair, pair=example.text) for example in examples)]
        encoded[split], cut = encode_examples(initial.tokenizer, examples, max_length)
        if cut:
            print(f"{start}: {cut:,} of {len(examples):,} examples of {split} cut to {max_length} tokens", file=sys.stderr)
    train = encoded.pop("train")
    trainer = Trainer(initial, config, len(data.labels), len(train), mesh)
    for seed in seeds:
        outcome = trainer.run(seed, train, encoded, config["log"]["progress"])
        metrics = _score(config["task"], data, {split: encoded[split] for split in labelled}, outcome.predictions)
        result = Result(start, seed, metrics)
        _keep_predictions(workdir / "predictions" / _slug(start) / f"seed_{seed}", data, outcome.predictions)
        yield result


def _score(task: dict[str, Any], data: TaskData, labelled: dict[str, list],
           predictions: dict[str, list]) -> dict[str, float]:
    """Metric → value; with several labelled splits "split/metric"."""
    values = {}
    for split, examples in labelled.items():
        labels = [example.label[example.label >= 0] if task["kind"] == "tagging" else example.label for example in examples]
        for name, value in score(task["metrics"], labels, predictions[split], data.labels).items():
            values[name if len(labelled) == 1 else f"{split}/{name}"] = value
    return values


def _keep_predictions(directory: Path, data: TaskData, predictions: dict[str, list]) -> None:
    """A TSV a split: the index of each example, and its label, number or tags."""
    directory.mkdir(parents=True, exist_ok=True)
    spell = lambda value: (" ".join(data.labels[tag] for tag in value) if isinstance(value, np.ndarray)  # noqa: E731
                           else data.labels[value] if isinstance(value, int) else f"{value:.6g}")
    for split, values in predictions.items():
        rows = "".join(f"{index}\t{spell(value)}\n" for index, value in enumerate(values))
        (directory / f"{split}.tsv").write_text("index\tprediction\n" + rows, encoding="utf-8")


def _read_results(workdir: Path) -> list[Result]:
    path = workdir / RESULTS_FILE
    return [Result(**one) for one in json.loads(path.read_text())] if path.is_file() else []


def _slug(start: str) -> str:
    """A start as the name of a folder."""
    return "".join(letter if letter.isalnum() or letter in "-._" else "_" for letter in start)


def main(argv: list[str]) -> None:
    """Command line of this module."""
    del argv
    silence_libraries()
    workdir = Path(flags.FLAGS.workdir)
    try:
        if not flags.FLAGS.init_from:
            raise ValueError("--init_from is missing: the directory of a run or of a Hugging Face model.")
        results = run(flags.FLAGS.config.to_dict(), workdir, flags.FLAGS.init_from, flags.FLAGS.seeds)
    except (ValueError, OSError, ImportError, FloatingPointError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
    metrics = list(results[0].metrics)
    plot(results, metrics[0], workdir / "plots" / "results.png")
    print("\n".join(table(results, metrics)))
    print(workdir / RESULTS_FILE)


if __name__ == "__main__":
    define_flags()
    # Here and not above, since importing a command must not define its flags.
    flags.DEFINE_list("init_from", None, "Starts to compare: DIR, or random:DIR, with commas between.")
    flags.DEFINE_integer("seeds", 1, "Runs of each start.", lower_bound=1)
    flags.adopt_module_key_flags(command_line)  # so that --help shows them
    app.run(main, flags_parser=parse_flags)
