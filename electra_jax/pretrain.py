"""Pre-train an encoder: `python -m electra_jax.pretrain --config=configs/electra.py:size=small --workdir=DIR`.

Run it again with the same arguments and it goes on from the newest checkpoint, or says that the run is complete. Any
value of the configuration can be set on the command line: `--config.train.num_steps=1000`, `--config.data.datasets=DIR`.
"""

import json
import sys
from pathlib import Path
from typing import Any

from absl import app, flags, logging
from ml_collections import config_flags

from data_pipelines.loader import EvaluationLoader, Loader
from data_pipelines.mixture import DatasetSource, Mixture, make_mixture, make_sequential
from data_pipelines.tokenizer import CLS_ID, MASK_ID, PAD_ID, SEP_ID
from electra_jax.distributed.mesh import make_mesh
from electra_jax.distributed.sharding import axis_context, batch_sharding, check_batch
from electra_jax.models.config import PretrainingConfig, make_pretraining_config
from electra_jax.models.flops import electra_flops, mlm_flops
from electra_jax.models.inputs import SpecialTokens
from electra_jax.objectives.base import Objective
from electra_jax.objectives.mlm import make_mlm_objective
from electra_jax.objectives.rtd import make_electra_objective
from electra_jax.training.checkpointing import Checkpointer
from electra_jax.training.evaluation import evaluate
from electra_jax.training.loop import Intervals, NonFiniteLossError, train
from electra_jax.training.plots import plot_curves
from electra_jax.training.program import make_program
from electra_jax.training.writers import MetricWriters, read_metrics

OBJECTIVES = {"electra": (make_electra_objective, electra_flops), "mlm": (make_mlm_objective, mlm_flops)}
SPECIAL = SpecialTokens(pad=PAD_ID, cls=CLS_ID, sep=SEP_ID, mask=MASK_ID)


def run(config: dict[str, Any], workdir: Path) -> dict[str, Any]:
    """Train as `config` says under `workdir`; returns the summary that is also written to summary.json.

    Raises:
      ValueError: config, data, mesh and run directory do not fit together; nothing has been written then.
    """
    model = make_pretraining_config(config["model"])
    objective, flops_per_token = make_objective(config, model)
    mesh = make_mesh(config["mesh"])
    check_batch(config["train"]["batch_size"], config["train"]["num_microbatches"], mesh)
    check_batch(config["eval"]["batch_size"], 1, mesh)
    sources = [DatasetSource(path, weight) for path, weight in zip(config["data"]["datasets"], config["data"]["weights"],
                                                                   strict=True)]
    mixture = make_mixture(sources, seed=config["data"]["seed"])
    held_out = make_sequential([DatasetSource(source.path, split="validation") for source in sources])
    check_data(config, model, mixture)
    description = {"config": config, "data": [info.fingerprint for info in mixture.infos]}
    checkpointer = Checkpointer(str(workdir / "checkpoints"), keep=config["checkpoint"]["keep"])
    check_run_directory(workdir, description)
    workdir.mkdir(parents=True, exist_ok=True)
    (workdir / "config.json").write_text(json.dumps(description, indent=2))

    intervals = Intervals(num_steps=config["train"]["num_steps"], log=config["log"]["every"],
                          evaluate=config["eval"]["every"], checkpoint=config["checkpoint"]["every"])
    with axis_context(mesh):
        program = make_program(config, objective, mesh)
        start = checkpointer.latest_step() or 0
        state = checkpointer.restore(start, program.abstract_state) if start else program.init()
        with (Loader(mixture, batch_size=config["train"]["batch_size"], sharding=batch_sharding(mesh),
                     prefetch=config["data"]["prefetch"]) as batches,
              EvaluationLoader(held_out, batch_size=config["eval"]["batch_size"], sharding=batch_sharding(mesh),
                               max_batches=config["eval"]["max_batches"]) as held_out_batches,
              MetricWriters(workdir, tensorboard=config["log"]["tensorboard"], progress=config["log"]["progress"],
                            total_steps=intervals.num_steps, start_step=start) as writers):
            try:
                train(state, program.train_step, batches, intervals, write=writers, checkpointer=checkpointer,
                      evaluate=lambda params: evaluate(program.evaluation_step, params, held_out_batches),
                      run=description, schedule=program.schedule, flops_per_token=flops_per_token,
                      peak_flops=config["log"]["peak_flops"] * mesh.size or None)
            except NonFiniteLossError as error:
                report = {"step": error.step, "rows": [[path, int(row)] for path, row in error.rows]}
                (workdir / "nonfinite_batch.json").write_text(json.dumps(report, indent=2))
                raise
            finally:
                checkpointer.close()
    return summarize_run(workdir)


def make_objective(config: dict[str, Any], model: PretrainingConfig) -> tuple[Objective, float]:
    """The objective that config.objective.name chooses, and its forward FLOPs a token."""
    name = config["objective"]["name"]
    if name not in OBJECTIVES:
        raise ValueError(f"config.objective.name: got {name!r}, expected one of {sorted(OBJECTIVES)}.")
    make, count_flops = OBJECTIVES[name]
    flops = count_flops(model, config["data"]["sequence_length"], config["objective"]["mask_prob"])
    return make(model, config["objective"], SPECIAL), flops


def check_data(config: dict[str, Any], model: PretrainingConfig, mixture: Mixture) -> None:
    """Raises ValueError when rows are longer, or ids larger, than the model can take."""
    length, expected = mixture.sequence_length, config["data"]["sequence_length"]
    if length != expected:
        raise ValueError(f"config.data.sequence_length: got {expected}, but the datasets hold rows of {length}. Set "
                         f"config.data.sequence_length={length}, or build a dataset with --sequence_length {expected}.")
    if length > model.discriminator.max_position_embeddings:
        raise ValueError(f"config.model.max_position_embeddings: got {model.discriminator.max_position_embeddings}, "
                         f"expected at least the row length {length}.")
    vocab_size = max(info.vocab_size for info in mixture.infos)
    if vocab_size > model.discriminator.vocab_size:
        raise ValueError(f"config.model.vocab_size: got {model.discriminator.vocab_size}, but the datasets' tokenizer has "
                         f"{vocab_size} entries. Set config.model.vocab_size={vocab_size} or more.")


# What may differ between the parts of one run: where it stops, how often it reports, and on which devices it runs.
FREE_SECTIONS = ("mesh", "log", "checkpoint", "eval")


def check_run_directory(workdir: Path, description: dict[str, Any]) -> None:
    """Raises ValueError, listing the keys, when `workdir` holds a run with another configuration or other data."""
    path = workdir / "config.json"
    if not path.exists():
        return
    old, new = flatten(json.loads(path.read_text())), flatten(json.loads(json.dumps(description)))
    free = tuple(f"config.{section}." for section in FREE_SECTIONS)
    differing = [key for key in sorted(old.keys() | new.keys())
                 if old.get(key) != new.get(key) and not key.startswith(free)]
    if differing:
        lines = "\n".join(f"  {key}: the run has {old.get(key)!r}, you gave {new.get(key)!r}" for key in differing)
        raise ValueError(f"{workdir} belongs to a run with other settings:\n{lines}\n"
                         "Use another --workdir, or give the settings of the run.")


def flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as {"a.b.c": value}."""
    if not isinstance(tree, dict):
        return {prefix: tree}
    return {name: value for key, child in tree.items()
            for name, value in flatten(child, f"{prefix}.{key}" if prefix else key).items()}


def summarize_run(workdir: Path) -> dict[str, Any]:
    """Write summary.json and the curves of a finished run; returns the summary."""
    rows = read_metrics(workdir)
    final = next(row for row in reversed(rows) if "eval/mlm_loss" in row)
    speeds = sorted(row["tokens_per_second"] for row in rows if "tokens_per_second" in row)
    summary = {"steps": final["step"], "tokens_per_second": speeds[len(speeds) // 2] if speeds else None}
    summary |= {key.replace("eval/", "heldout_"): value for key, value in final.items() if key.startswith("eval/")}
    (workdir / "summary.json").write_text(json.dumps(summary, indent=2))
    plot_curves(workdir)
    return summary


def print_summary(summary: dict[str, Any], workdir: Path) -> None:
    """A short table for people; the path of summary.json is the last line."""
    for key, value in summary.items():
        print(f"{key:32s} {value:,.4f}" if isinstance(value, float) else f"{key:32s} {value}")
    print(workdir / "summary.json")


_CONFIG = config_flags.DEFINE_config_file("config", None, "Configuration file, with its argument: FILE.py:key=value,…",
                                          lock_config=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "Directory of the run: configuration, metrics, checkpoints, plots.")


def main(argv: list[str]) -> None:
    """Command line of this module."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}")
    logging.set_verbosity(logging.WARNING)  # Orbax reports every rename
    workdir = Path(_WORKDIR.value)
    config = _CONFIG.value.to_dict()
    try:
        summary = run(config, workdir)
    except (ValueError, OSError, NonFiniteLossError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
    print_summary(summary, workdir)


if __name__ == "__main__":
    flags.mark_flags_as_required(["config", "workdir"])
    app.run(main)
