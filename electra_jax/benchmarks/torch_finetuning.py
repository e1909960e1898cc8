"""The fine-tuning of `python -m electra_jax.finetune` again, with PyTorch and `transformers`, on the CPU.

    python -m electra_jax.benchmarks.torch_finetuning \\
        --config=configs/finetune.py:task=sst2,model=electra,size=base --init_from=HF_DIR --seeds=5 \\
        --workdir=runs/sst2_torch --beside=runs/sst2

Token ids, batches, their order and the metrics are those of our command with the same --config and the same
overrides. The encoder, head, loss, dropout, optimizer and initial weights of the head are PyTorch's
(torch_task.py). --beside is the --workdir of our command: its results come first in the table, and "mean
difference" compares the two. The same command again resumes. It needs the packages of
`pip install -e '.[test]'`.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from absl import flags

from data_pipelines.json_files import read_json
from data_pipelines.progress import make_progress
from data_pipelines.sample.trec_questions import with_files
from data_pipelines.tasks.load import load_task
from electra_jax.benchmarks.torch_task import TaskModule, forward, load_module, train
from electra_jax.configuration.flags import run_command
from electra_jax.configuration.recipes import FINETUNING
from electra_jax.distributed.mesh import make_mesh
from electra_jax.finetuning.batches import evaluation_batches, num_training_steps, training_batches
from electra_jax.finetuning.encoders import PretrainedEncoder, load_encoder
from electra_jax.finetuning.experiment import write_report
from electra_jax.finetuning.experiment_directory import (
    RESULTS_FILE,
    check_directory,
    read_results,
    recorded_metrics,
    with_recorded_metrics,
    write_description,
    write_results,
)
from electra_jax.finetuning.results import Result
from electra_jax.finetuning.span_decoding import IndependentOutputs
from electra_jax.finetuning.sweep import apply_settings
from electra_jax.finetuning.task_finetuner import Finetuned, TaskFinetuner
from electra_jax.finetuning.task_types import Rows, TaskType
from electra_jax.finetuning.watching import LAST
from electra_jax.runs.directory import check_run_directory

PREFIX = "transformers:"  # before the directory in the names of results


class TorchTaskFinetuner(TaskFinetuner):
    """Our task, rows and metrics with PyTorch's model and training."""

    def finetune(self, encoder: PretrainedEncoder, settings: dict[str, Any], seed: int) -> Finetuned:
        """Fine-tune once; `encoder` gives the directory and the tokenizer.

        Raises:
          ValueError: the rows are too short for the task, or see `load_module`.
          OSError: see `load_module`.
          FloatingPointError: the training diverged.
        """
        config, special = apply_settings(self.config, settings), encoder.special
        task_type, train_config = self.task_type, config["train"]
        batch_size, num_epochs = train_config["batch_size"], train_config["num_epochs"]
        torch.manual_seed(seed)
        module = load_module(encoder.name, task_type.name, task_type.num_outputs, special, config["model"])
        rows = self.encode(encoder)
        num_steps = num_training_steps(len(rows["train"]), batch_size, num_epochs)
        batches = training_batches(task_type, rows["train"], batch_size, num_epochs, seed, special.pad)
        losses = train(module, task_type.name, batches, num_steps, config, special)
        is_quiet = not config["log"]["progress"]
        with make_progress(num_steps, f"seed {seed}", is_shown=not is_quiet) as shown:
            for step, last in enumerate(losses, start=1):
                shown.update(step, {"loss": f"{last:.3f}"})
        if not np.isfinite(last):
            raise FloatingPointError(
                f"the loss of step {num_steps} is {last}. Lower config.optimizer.learning_rate."
            )
        predictions = {}
        for split in (split for split in rows if split != "train"):
            outputs = predict(module, task_type, rows[split], config, special.pad)
            predictions[split] = task_type.collect(self.data.splits[split], rows[split], outputs)
        return Finetuned(encoder.config, module.state_dict(), predictions, self.score(predictions))


@torch.no_grad()
def predict(
    module: TaskModule, task_type: TaskType, rows: Rows, config: dict[str, Any], pad: int
) -> list[Any]:
    """The outputs of each row, as `task_type.collect` takes them."""
    module.eval()
    outputs: list[Any] = [None] * len(rows)
    for batch in evaluation_batches(task_type, rows, config["train"]["batch_size"], pad):
        indices = batch.indices_B[batch.indices_B >= 0]
        batch = batch._replace(ids_BL=batch.ids_BL[: len(indices)])
        batch_outputs = forward(module, batch, config["model"]["dtype"]).numpy()
        for index, output in zip(indices, batch_outputs, strict=True):
            is_answer = task_type.name == "question_answering"
            outputs[index] = IndependentOutputs(*output.T) if is_answer else output
    return outputs


def finetune_in_torch(
    config: dict[str, Any], workdir: Path, directory: str, seeds: Sequence[int]
) -> list[Result]:
    """Results of all `seeds` from the Hugging Face model in `directory`; results that exist are reused.

    Raises:
      ValueError, OSError: the task, the model and the settings do not match, or `workdir` is another run's.
      FloatingPointError: a training diverged.
    """
    description = Path(directory) / "config.json"
    if not description.is_file() or "model_type" not in read_json(description, dict):
        raise ValueError(
            f"--init_from={directory}: got no {description} of a Hugging Face model, expected one. Export "
            "the run: python -m electra_jax.convert export."
        )
    if config["train"]["keep"] != LAST:
        raise ValueError(
            f"config.train.keep: got {config['train']['keep']!r}, expected {LAST!r}: this training keeps no "
            "other model."
        )
    for section, key, ours in (
        ("optimizer", "name", "adam"),
        ("optimizer", "weight_decay_follows", "rate"),
        ("model", "pooling", "cls"),
        ("model", "num_layers", 0),
        ("sift", "vat_lambda", 0.0),
    ):
        if config[section][key] != ours:
            raise ValueError(
                f"config.{section}.{key}: got {config[section][key]!r}, expected {ours!r}: this training has "
                "no other."
            )
    if config["task"]["kind"] == "embedding":
        raise ValueError(
            "config.task.kind: got 'embedding', expected a task with labels: this training has no "
            "contrastive loss."
        )
    config = with_recorded_metrics(_with_tuples(config), workdir)
    check_directory(workdir, {"config": config, "start": directory})
    data = load_task(with_files(config["task"], workdir / "data"))
    for note in data.notes:
        print(note, file=sys.stderr)
    finetuner = TorchTaskFinetuner(config, data, make_mesh(config["mesh"]))
    finetuner.check_runs([{}])
    workdir.mkdir(parents=True, exist_ok=True)
    results = read_results(workdir)
    encoder = load_encoder(directory, workdir / "tokenizer")
    finetuner.check_runs([{}], encoder)
    write_description(workdir, {"config": finetuner.config, "start": directory})
    for seed in seeds:
        if seed not in [result.seed for result in results]:
            results.append(Result(PREFIX + directory, seed, finetuner.finetune(encoder, {}, seed).metrics))
            write_results(workdir, results)
    return [result for result in sorted(results, key=lambda result: result.seed) if result.seed in seeds]


def read_beside(workdir: Path, config: dict[str, Any], directory: str) -> list[Result]:
    """The results of `electra_jax.finetune` to compare with, those of the model in `directory` first.

    Raises:
      FileNotFoundError: there are none.
      ValueError: they were made with different settings.
    """
    if not (workdir / RESULTS_FILE).is_file():
        raise FileNotFoundError(
            f"{workdir}: there is no {RESULTS_FILE}, expected the --workdir of a fine-tuning run."
        )
    check_run_directory(workdir, {"config": with_recorded_metrics(_with_tuples(config), workdir)})
    return sorted(read_results(workdir), key=lambda result: result.model != directory)


def _with_tuples(config: dict[str, Any]) -> dict[str, Any]:
    tuples = {key: tuple(config["task"][key]) for key in ("labels", "metrics")}
    return config | {"task": config["task"] | tuples}


def main() -> None:
    """Fine-tune, then print the table and where the results are."""
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    options = flags.FLAGS
    workdir, config, directory = Path(options.workdir), options.config.to_dict(), options.init_from
    if not directory:
        raise ValueError("--init_from is missing: the directory of a Hugging Face model.")
    ours = read_beside(Path(options.beside), config, directory) if options.beside else []
    results = finetune_in_torch(config, workdir, directory, range(options.seeds))
    print("\n".join(write_report([*ours, *results], recorded_metrics(workdir), workdir)))
    print(workdir / RESULTS_FILE)


def define_more_flags() -> None:
    """Define the flags besides --config and --workdir."""
    flags.DEFINE_string("init_from", None, "Hugging Face directory of ELECTRA, BERT or DeBERTa-v2/v3.")
    flags.DEFINE_integer("seeds", 1, "Number of runs.", lower_bound=1)
    flags.DEFINE_string(
        "beside", None, "--workdir of electra_jax.finetune with the same settings, to compare with."
    )


if __name__ == "__main__":
    run_command(main, define_more_flags, kind=FINETUNING)
