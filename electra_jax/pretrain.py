"""Pre-train an encoder: `python -m electra_jax.pretrain --config=configs/electra.py:size=small
--workdir=DIR`.

Run it again with the same arguments and it goes on from the newest checkpoint, or says that the run is
complete. Any value of the configuration can be set on the command line: `--config.train.num_steps=1000`,
`--config.data.datasets=DIR1,DIR2`. Told to stop by SIGTERM, or Ctrl-C, it saves and ends with exit code 143.
While it starts and compiles, at the beginning and between the stages of config.stages, there is nothing to
save: SIGTERM then ends it as it does any process, which a shell shows as 143, too.

On several hosts every one of them runs the command with --distributed, and sees the same --workdir and
datasets. Where neither a TPU's metadata nor GKE, SLURM or Open MPI say who they are, --coordinator=HOST:PORT
--num_processes=N --process_id=I does.
"""

import contextlib
import dataclasses
import logging as stdlib_logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from absl import app, flags, logging
from jax.sharding import Mesh

from data_pipelines.loader import EvaluationLoader, Loader
from data_pipelines.tokenizers.load import load_tokenizer
from data_pipelines.tokenizers.adopt import adopt_tokenizer
from electra_jax.configuration import flags as command_line
from electra_jax.configuration.flags import define_flags, parse_flags
from electra_jax.distributed.processes import (
    barrier,
    define_process_flags,
    exit_process,
    is_main_process,
    join_by_flags,
)
from electra_jax.distributed.sharding import axis_context, batch_sharding
from electra_jax.distributed.stopping import StopNotice, leaving_at_once
from electra_jax.models.config import PretrainingConfig
from electra_jax.objectives.base import Objective
from electra_jax.runs.directory import is_complete, summarize_run, write_json
from electra_jax.runs.inputs import RunInputs, StageInputs, open_inputs
from electra_jax.runs.provenance import record_start
from electra_jax.runs.trained import check_initial, initial_params
from electra_jax.training.checkpointing import Checkpointer
from electra_jax.training.evaluation import evaluate
from electra_jax.training.loop import Intervals, NonFiniteLossError, train
from electra_jax.training.metrics import Metrics
from electra_jax.training.parameter_table import parameter_table
from electra_jax.training.program import Program, make_program
from electra_jax.training.state import TrainState, abstract_params, start_from
from electra_jax.training.writers import MetricWriters


def run(config: dict[str, Any], workdir: Path) -> dict[str, Any]:
    """Train as `config` says under `workdir`; returns the summary that is also written to summary.json, {} on
    all processes but the first.

    Raises:
      Stopped: it was told to stop, and is saved.
      ValueError: config, data, mesh and run directory do not fit together; nothing has been written then.
      OSError: a dataset or checkpoint cannot be read, or the disk is full.
      NonFiniteLossError: the loss became NaN or infinite.
    """
    inputs = open_inputs(config, workdir)
    config, mesh = inputs.config, inputs.mesh
    initial = config["checkpoint"]["init_from"]
    if not (workdir / "config.json").exists():  # a run that goes on needs its start no more
        check_initial(initial, config, inputs.tokenizer_fingerprint)

    barrier("run directory looked at")
    num_steps = config["train"]["num_steps"]
    with axis_context(mesh):
        stages = [
            (
                stage,
                make_program(stage.config, inputs.objective, mesh, first_step=stage.first_step),
                make_loaders(stage, mesh),
            )
            for stage in inputs.stages
        ]
    program = stages[0][1]  # the state and how it begins are the same in all
    probe = make_probe(config, inputs.model, inputs.tokenizer, mesh, workdir / "probe")
    with (
        axis_context(mesh),
        contextlib.closing(
            Checkpointer(str(workdir / "checkpoints"), keep=config["checkpoint"]["keep"])
        ) as checkpointer,
    ):
        start = checkpointer.latest_step() or 0
        if is_complete(workdir, start, num_steps, has_probe=probe is not None):
            print(f"{workdir}: the run is complete, all {num_steps} steps are done.", file=sys.stderr)
            return summarize_run(workdir) if is_main_process() else {}
        if is_main_process():
            write_run_directory(inputs, program, workdir)
            record_start(workdir, start)
        state = start_state(program, checkpointer, start, initial, workdir)
        stop = StopNotice()  # one for all stages, since of several processes it counts how often it was asked
        with (
            MetricWriters(
                workdir,
                tensorboard=config["log"]["tensorboard"],
                progress=config["log"]["progress"],
                total_steps=num_steps,
                start_step=start,
                is_writer=is_main_process(),
            ) as writers,
            report_nonfinite(workdir),
        ):
            for stage, program, loaders in stages:
                if start < stage.end or stage is inputs.stages[-1]:
                    state = train_stage(
                        state,
                        stage,
                        program,
                        loaders,
                        probe=probe,
                        write=writers,
                        checkpointer=checkpointer,
                        stop=stop,
                        run=inputs.description,
                    )
    return summarize_run(workdir) if is_main_process() else {}


def make_loaders(stage: StageInputs, mesh: Mesh) -> tuple[Loader, EvaluationLoader]:
    """Batches of a stage, and its held-out ones; nothing is read yet.

    Raises:
      ValueError: batches that the mesh does not divide, or no batches.
    """
    config, sharding = stage.config, batch_sharding(mesh)
    return (
        Loader(
            stage.mixture,
            batch_size=config["train"]["batch_size"],
            sharding=sharding,
            first_step=stage.first_step,
            prefetch=config["data"]["prefetch"],
        ),
        EvaluationLoader(
            stage.held_out,
            batch_size=config["eval"]["batch_size"],
            sharding=sharding,
            max_batches=config["eval"]["max_batches"],
        ),
    )


def train_stage(
    state: TrainState,
    stage: StageInputs,
    program: Program,
    loaders: tuple[Loader, EvaluationLoader],
    *,
    stop: StopNotice,
    **others: Any,
) -> TrainState:
    """Train to the end of a stage; returns the last state. `others` and errors: see `loop.train`."""
    config = stage.config
    with loaders[0] as batches, loaders[1] as held_out_batches:
        # Compiled while everything is saved: told to stop while it compiles it could not save in time. And
        # outside of StopNotice, which would hear of it only when compiling is over: until then SIGTERM ends
        # the process at once.
        program.evaluation_step(state.params, held_out_batches.batch_at(0)["input_ids"], 0)
        train_step = program.train_step.lower(state, batches.batch_at(int(state.step))["input_ids"]).compile()
        num_steps = config["train"]["num_steps"]
        with stop:
            return train(
                state,
                train_step,
                batches,
                Intervals(
                    num_steps,
                    config["log"]["every"],
                    config["eval"]["every"],
                    config["checkpoint"]["every"],
                    config["probe"]["every"],
                ),
                evaluate=lambda params: evaluate(
                    program.evaluation_step, params, held_out_batches, stop.check
                ),
                schedule=program.schedule,
                stop=stop,
                flops_per_token=stage.flops_per_token,
                peak_flops=config["log"]["peak_flops"] * jax.device_count() or None,
                until=None if stage.end == num_steps else stage.end,
                **others,
            )


def start_state(
    program: Program, checkpointer: Checkpointer, step: int, initial: str, workdir: Path
) -> TrainState:
    """The state after `step` steps: restored, or fresh, then with the parameters of the run `initial`, if it
    names one."""
    if step:
        return checkpointer.restore(step, program.abstract_state)
    state = program.init()
    if not initial:
        return state
    step, params = initial_params(Path(initial), state.params, program.abstract_state.params)
    print(
        f"{workdir}: starting from the parameters of {initial}, step {step}, with a fresh optimizer.",
        file=sys.stderr,
    )
    return start_from(state, params)


def write_run_directory(inputs: RunInputs, program: Program, workdir: Path) -> None:
    """Write config.json, datasets.json, the table of the parameters, and the tokenizer."""
    write_json(workdir / "config.json", inputs.description)
    # What reads the run later needs the special ids and the vocabulary, wherever the datasets are then.
    adopt_tokenizer(inputs.tokenizer, workdir / "tokenizer", lowercase=None)
    write_json(
        workdir / "datasets.json",
        [
            {
                "path": source.path,
                "weight": source.weight,
                "first_step": stage.first_step,
                **dataclasses.asdict(info),
            }
            for stage in inputs.stages
            if not stage.reads_on
            for source, info in zip(stage.mixture.sources, stage.mixture.infos, strict=True)
        ],
    )
    write_parameters(inputs.config, inputs.objective, program, workdir)


def make_probe(
    config: dict[str, Any], model: PretrainingConfig, tokenizer: Path, mesh: Mesh, directory: Path
) -> Callable[[Any], Metrics] | None:
    """What measures a run's parameters on config.probe's task, None where it never shall; see `Probe` for the
    errors."""
    if not config["probe"]["every"]:
        return None
    from electra_jax.finetuning.probes import (
        Probe,  # here, since what reads and scores tasks takes seconds to import
    )

    return Probe(config, model, load_tokenizer(str(tokenizer)), mesh, directory)


@contextlib.contextmanager
def report_nonfinite(workdir: Path):
    """Context that leaves the rows of a batch with a NaN or infinite gradient in nonfinite_batch.json."""
    try:
        yield
    except NonFiniteLossError as error:
        if is_main_process():
            rows = [[path, row] for path, row in error.rows]
            write_json(workdir / "nonfinite_batch.json", {"step": error.step, "rows": rows})
        raise


def write_parameters(config: dict[str, Any], objective: Objective, program: Program, workdir: Path) -> None:
    """Write the table of the parameters to parameters.txt and print its totals."""
    _, logical_axes = abstract_params(objective, config["data"]["sequence_length"])
    lines = parameter_table(
        program.abstract_state.params, logical_axes, config["optimizer"], objective.frozen
    )
    (workdir / "parameters.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{lines[-1]} (all in {workdir / 'parameters.txt'})", file=sys.stderr)


def silence_libraries() -> None:
    """Orbax reports every rename, and each array that a full disk rejects with its traceback; what matters is
    also raised."""
    logging.set_verbosity(logging.FATAL)
    stdlib_logging.getLogger("asyncio").setLevel(stdlib_logging.CRITICAL)


def print_summary(summary: dict[str, Any], workdir: Path) -> None:
    """A short table for people; the path of summary.json is the last line."""
    for key, value in summary.items():
        print(f"{key:32s} {value:,.4f}" if isinstance(value, float) else f"{key:32s} {value}")
    print(workdir / "summary.json")


def main(argv: list[str]) -> None:
    """Command line of this module."""
    del argv
    silence_libraries()
    workdir = Path(flags.FLAGS.workdir)
    try:
        join_by_flags()
        with leaving_at_once():
            summary = run(flags.FLAGS.config.to_dict(), workdir)
    except (ValueError, OSError, ImportError, NonFiniteLossError) as error:
        exit_process(f"{type(error).__name__}: {error}")
    except RuntimeError as error:
        if not (isinstance(error.__cause__, OSError) or jax.distributed.is_initialized()):
            raise
        exit_process(
            f"{type(error.__cause__ or error).__name__}: {error}"
        )  # a loader could not read its rows, or a process is gone
    if is_main_process():
        print_summary(summary, workdir)


if __name__ == "__main__":
    define_flags()
    # Here and not above, since importing a command must not define its flags.
    define_process_flags()
    flags.adopt_module_key_flags(command_line)  # so that --help shows them
    app.run(main, flags_parser=parse_flags)
