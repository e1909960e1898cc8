"""The peer of `python -m electra_jax.finetune`: the same fine-tuning with PyTorch and `transformers`, on the
CPU.

    python -m electra_jax.benchmarks.torch_finetuning --config=configs/finetune.py:task=sst2,model=electra,size=base \\
        --init_from=HF_DIR --seeds=5 --workdir=runs/sst2_torch --beside=runs/sst2

Token ids, batches, their order and the measures are those of our command with the same --config and the same
overrides; the encoder, head, loss, dropout, optimizer and the head's first weights are PyTorch's
(torch_task.py). --beside is the --workdir of our command: its results come first in the table, and "mean
difference" says whether the two agree. The same command again goes on where it stopped. It needs the packages
of `pip install -e '.[test]'`.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from absl import app, flags
from tqdm import tqdm

from data_pipelines.json_files import write_json
from data_pipelines.sample.trec_questions import with_files
from data_pipelines.tasks.load import load_task
from electra_jax.benchmarks.torch_task import TaskModule, forward, load_module, train
from electra_jax.configuration import flags as command_line
from electra_jax.configuration.flags import define_flags, parse_flags, silence_libraries
from electra_jax.distributed.mesh import make_mesh
from electra_jax.finetuning.batches import evaluation_batches, num_training_steps, training_batches
from electra_jax.finetuning.encoders import PretrainedEncoder, load_encoder
from electra_jax.finetuning.experiment import RESULTS_FILE, write_report
from electra_jax.finetuning.results import Result, to_json
from electra_jax.finetuning.span_decoding import IndependentOutputs
from electra_jax.finetuning.sweep import apply_settings
from electra_jax.finetuning.task_finetuner import Finetuned, TaskFinetuner
from electra_jax.finetuning.task_types import Rows, TaskType
from electra_jax.runs.directory import check_run_directory

PREFIX = "transformers:"  # before the directory: the name in the results


class TorchWorkbench(TaskFinetuner):
    """The same task, rows and measures as ours; the model and its training are PyTorch's."""

    def finetune(self, initial: PretrainedEncoder, settings: dict[str, Any], seed: int) -> Finetuned:
        """One run; `initial` gives the directory and the tokenizer.

        Raises: ValueError, OSError: see `load_module`; rows too short for the task. FloatingPointError: it
          diverged.
        """
        config, kind, special = apply_settings(self.config, settings), self.task_type, initial.special
        torch.manual_seed(seed)
        module = load_module(initial.name, kind.name, kind.num_outputs, special, config["model"])
        encoded, size = self.encode(initial), (config["train"]["batch_size"], config["train"]["num_epochs"])
        num_steps = num_training_steps(len(encoded["train"]), *size)
        batches = training_batches(kind, encoded["train"], *size, seed, special.pad)
        losses = train(module, kind.name, batches, num_steps, config, special)
        bar = tqdm(
            losses, total=num_steps, desc=f"seed {seed}", leave=False, disable=not config["log"]["progress"]
        )
        last = [*bar][-1]
        if not np.isfinite(last):
            raise FloatingPointError(
                f"the loss of step {num_steps} is {last}. Lower config.optimizer.learning_rate."
            )
        predictions = {
            split: kind.collect(
                self.data.splits[split], rows, predict(module, kind, rows, config, special.pad)
            )
            for split, rows in encoded.items()
            if split != "train"
        }
        return Finetuned(initial.config, module.state_dict(), predictions, self.score(predictions))


@torch.no_grad()
def predict(module: TaskModule, kind: TaskType, rows: Rows, config: dict[str, Any], pad: int) -> list[Any]:
    """Outputs of each row, in the form that `kind.collect` takes."""
    module.eval()
    found: list[Any] = [None] * len(rows)
    for batch in evaluation_batches(kind, rows, config["train"]["batch_size"], pad):
        chosen = batch.indices_B[batch.indices_B >= 0]
        outputs = forward(
            module, batch._replace(ids_BL=batch.ids_BL[: len(chosen)]), config["model"]["dtype"]
        ).numpy()
        for index, output in zip(chosen, outputs, strict=True):
            found[index] = IndependentOutputs(*output.T) if kind.name == "question_answering" else output
    return found


def run(config: dict[str, Any], workdir: Path, start: str, seeds: Sequence[int]) -> list[Result]:
    """The results of all `seeds` from the Hugging Face directory `start`; those that are not there yet are
    made.

    Raises: ValueError, OSError: the task, the start or the settings do not fit together, or `workdir` is
      another run's. FloatingPointError: a run diverged.
    """
    described = Path(start) / "config.json"
    if not described.is_file() or "model_type" not in json.loads(described.read_text()):
        raise ValueError(
            f"--init_from={start}: got no {described} of a Hugging Face model, expected one. Export the run: "
            "python -m electra_jax.convert export."
        )
    config = _with_tuples(config)
    check_run_directory(workdir, {"config": config, "start": start})
    data = load_task(with_files(config["task"], workdir / "data"))
    for note in data.notes:
        print(note, file=sys.stderr)
    bench = TorchWorkbench(config, data, make_mesh(config["mesh"]))
    workdir.mkdir(parents=True, exist_ok=True)
    write_json(workdir / "config.json", {"config": config, "start": start})
    results = read_results(workdir) if (workdir / RESULTS_FILE).is_file() else []
    initial = load_encoder(start, workdir / "tokenizer")
    for seed in seeds:
        if seed not in [result.seed for result in results]:
            results.append(Result(PREFIX + start, seed, bench.finetune(initial, {}, seed).metrics))
            write_json(workdir / RESULTS_FILE, to_json(results))
    return [result for result in sorted(results, key=lambda result: result.seed) if result.seed in seeds]


def read_results(workdir: Path) -> list[Result]:
    """The results of a run of this command or of ours.

    Raises:
      FileNotFoundError: there are none.
    """
    path = workdir / RESULTS_FILE
    if not path.is_file():
        raise FileNotFoundError(
            f"{workdir}: there is no {RESULTS_FILE}, expected the --workdir of a fine-tuning run."
        )
    return [Result(**one) for one in json.loads(path.read_text())]


def read_beside(workdir: Path, config: dict[str, Any], start: str) -> list[Result]:
    """Our command's results to compare with, those of the same `start` first.

    Raises:
      FileNotFoundError: there are none. ValueError: they were made with other settings.
    """
    results = read_results(workdir)
    check_run_directory(workdir, {"config": _with_tuples(config)})
    return sorted(results, key=lambda result: result.model != start)


def _with_tuples(config: dict[str, Any]) -> dict[str, Any]:
    return config | {
        "task": config["task"] | {key: tuple(config["task"][key]) for key in ("labels", "metrics")}
    }


def main(argv: list[str]) -> None:
    """Command line of this module."""
    del argv
    silence_libraries()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    workdir, config, start = Path(flags.FLAGS.workdir), flags.FLAGS.config.to_dict(), flags.FLAGS.init_from
    try:
        if not start:
            raise ValueError("--init_from is missing: the directory of a Hugging Face model.")
        ours = read_beside(Path(flags.FLAGS.beside), config, start) if flags.FLAGS.beside else []
        results = run(config, workdir, start, range(flags.FLAGS.seeds))
    except (ValueError, OSError, FloatingPointError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
    print("\n".join(write_report([*ours, *results], config["task"]["metrics"], workdir)))
    print(workdir / RESULTS_FILE)


if __name__ == "__main__":
    define_flags()
    # Here and not above, since importing a command must not define its flags.
    flags.DEFINE_string("init_from", None, "Hugging Face directory of ELECTRA, BERT or DeBERTa-v2/v3.")
    flags.DEFINE_integer("seeds", 1, "Runs.", lower_bound=1)
    flags.DEFINE_string(
        "beside", None, "The --workdir of electra_jax.finetune with the same settings, to compare with."
    )
    flags.adopt_module_key_flags(command_line)  # so that --help shows them
    app.run(main, flags_parser=parse_flags)
