"""Pre-training under a run directory: `pretrain(config, workdir)`, from checked inputs to summary.json."""

import contextlib
import functools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from data_pipelines.buckets import is_bucket
from data_pipelines.loader import EvaluationLoader, Loader
from data_pipelines.progress import waiting
from data_pipelines.token_counts import mixture_counts
from data_pipelines.tokenizers.load import load_tokenizer
from electra_jax.configuration.checkpoint_names import parse_checkpoint
from electra_jax.configuration.length import without_end
from electra_jax.configuration.resolve import resolve
from electra_jax.distributed.chips import peak_flops
from electra_jax.distributed.processes import barrier, exchange, is_main_process
from electra_jax.distributed.sharding import axis_context
from electra_jax.distributed.stopping import StopNotice, Stopped
from electra_jax.models.config import PretrainingConfig
from electra_jax.models.inputs import SpecialTokens
from electra_jax.objectives.corruption import never_masked
from electra_jax.runs.bucket_checkpoints import open_checkpoints
from electra_jax.runs.bucket_runs import RunDirectory, opened_run
from electra_jax.runs.changed_length import check_length, describe_new_length, recorded_length
from electra_jax.runs.compilation_cache import CompilationCache, compilation_cache
from electra_jax.runs.continued_settings import propose_settings
from electra_jax.runs.data_sizes import resolve_run
from electra_jax.runs.directory import is_measured
from electra_jax.runs.inputs import RunInputs, StageInputs, model_of_stage, open_inputs
from electra_jax.runs.lost_rows import LOG_EVERY, record_lost_rows
from electra_jax.runs.prepared_stages import PreparedStage, prepare_stages, stages_after
from electra_jax.runs.probes import measures_the_same, open_probe, probe_config
from electra_jax.runs.provenance import record_start
from electra_jax.runs.resuming import Start, check_beginning, find_start, leave_behind
from electra_jax.runs.rollbacks import describe_rollbacks, reach_of, record_events, resume_rollbacks
from electra_jax.runs.run_files import write_places, write_run_directory
from electra_jax.runs.start_report import memory_line, start_lines
from electra_jax.runs.start_step import started_from, with_start_step
from electra_jax.runs.summary import summarize_run
from electra_jax.runs.teachers import describe_teachers, with_loaded_teachers
from electra_jax.runs.trained import initial_params
from electra_jax.runs.trouble_services import RunningPretraining, roll_back, trouble_services
from electra_jax.runs.watched_health import health_of
from electra_jax.training.checkpointing import Checkpointer
from electra_jax.training.evaluation import evaluate
from electra_jax.training.events import EventLog, read_events
from electra_jax.training.health import describe_alarms
from electra_jax.training.loop import Intervals, RunServices, StageComputation, TrainingLoop
from electra_jax.training.metrics import Metrics
from electra_jax.training.program import Program, dtype_note
from electra_jax.training.state import TrainState, num_left_out, start_from
from electra_jax.training.step_memory import memory_of
from electra_jax.training.trackers.background import BackgroundTracker, open_trackers
from electra_jax.training.trackers.choose import find_trackers
from electra_jax.training.trackers.interface import TrackedRun
from electra_jax.training.unigram import unigram_log_probabilities
from electra_jax.training.watch import RollBack
from electra_jax.training.writers import MetricWriters


def pretrain(config: dict[str, Any], workdir: str | Path, *, changes_length: bool = False) -> dict[str, Any]:
    """Train by `config` under `workdir`, a directory or the URL of one in a bucket, from the newest
    checkpoint if there is one.

    Args:
      changes_length: whether a run that resumes may have another config.train.num_steps than before.

    Returns:
      The summary, which is also written to summary.json; {} on all processes but the first.

    Raises:
      Stopped: the run was told to stop; its state is saved.
      ValueError: config, data, mesh and run directory do not fit together; nothing has been written then.
      HeldError: another process writes the run; nothing has been written then.
      LostError: another process has taken the run over while this one gave no sign of life.
      OSError: a dataset or checkpoint cannot be read, or the disk is full.
      NumericalTroubleError: a step in numerical trouble ended the run (config.trouble).
    """
    if is_bucket(workdir):
        # Mistakes come before the bucket is read, which tells whether the run has begun.
        resolve(without_end(config), has_begun=True)
    with opened_run(workdir) as run:
        resolved = resolve_run(with_start_step(config, run.path), run.path)
        return _pretrain(open_inputs(resolved, run.path, changes_length=changes_length), run)


def _pretrain(inputs: RunInputs, run: RunDirectory) -> dict[str, Any]:
    workdir = run.path
    if is_main_process():
        find_trackers(inputs.config["log"]["trackers"])  # so that a wrong one is an error before all work
    barrier("run directory checked")
    if _is_done(inputs, run):
        num_steps = inputs.config["train"]["num_steps"]
        print(f"{run.name}: the run is complete, all {num_steps} steps are done.", file=sys.stderr)
        if is_main_process():
            write_places(inputs, workdir)
    else:
        with compilation_cache(inputs.config["train"]["compilation_cache"], run.name) as programs:
            _train(inputs, run, programs)
    run.check_writer()
    summary = summarize_run(workdir) if is_main_process() else {}
    if is_main_process():
        print(describe_alarms(read_events(workdir)), file=sys.stderr)
    run.publish()
    barrier("summary written")  # a process that exits earlier would wait for process 0, but not as long
    return summary


def _is_done(inputs: RunInputs, run: RunDirectory) -> bool:
    """Whether nothing is left to do. Asked before stages are prepared, which takes longer than all else that
    a complete run needs."""
    num_steps, has_probe = inputs.config["train"]["num_steps"], bool(inputs.config["probe"]["every"])
    # A run that shall end where it was stopped has all its steps, but another length in its files.
    is_done = recorded_length(run.path) == num_steps and is_measured(run.path, num_steps, has_probe=has_probe)
    # A shared file system may show the hosts different files; what process 0 sees holds for all.
    if not exchange(is_done)[0]:
        return False
    with axis_context(inputs.mesh), contextlib.closing(_open_checkpointer(inputs, run.path)) as checkpointer:
        if exchange(checkpointer.latest_step())[0] != num_steps:
            return False
        return find_start(checkpointer, inputs, run).step == num_steps


def _train(inputs: RunInputs, run: RunDirectory, programs: CompilationCache) -> None:
    """Train from the newest checkpoint, or from the beginning."""
    with axis_context(inputs.mesh):
        stages = prepare_stages(inputs)
    probes = make_probes(inputs, run.path / "probe")
    with axis_context(inputs.mesh), contextlib.closing(_open_checkpointer(inputs, run.path)) as checkpointer:
        # The initial state is the same in all stages.
        abstract_state = stages[0].program.abstract_state
        rollbacks, undone = resume_rollbacks(run.path, checkpointer)
        start = find_start(checkpointer, inputs, run, abstract_state, undone)
        check_length(run.name, start.step, inputs.config["train"]["num_steps"])
        check_beginning(start, inputs, run)
        _record(start, inputs, stages[0].program, run, checkpointer)
        stop = StopNotice()  # one for all stages, since with several processes it counts its checks
        while True:
            if rollbacks:
                stages = stages_after(rollbacks, stages, inputs, run.path)
            running = RunningPretraining(inputs, run, checkpointer, rollbacks, stop, probes, programs)
            try:
                return _train_from(start, stages, running)
            except RollBack as request:
                incident, evidence, is_stopping = request.incident, request.evidence, request.is_stopping
            rollbacks = roll_back(incident, evidence, stages, running)
            if is_stopping:
                raise Stopped
            start = find_start(checkpointer, inputs, run, abstract_state)
            leave_behind(start, checkpointer, run)


def make_probes(inputs: RunInputs, directory: Path) -> list[Callable[[Any], Metrics] | None]:
    """The probe of each stage: that of the stage before if it measures the same. Raises as `make_probe`
    does."""
    probes: list[Callable[[Any], Metrics] | None] = []
    configs = [probe_config(stage.config, inputs.stages[0].config) for stage in inputs.stages]
    for number, config in enumerate(configs):
        if number and measures_the_same(configs[number - 1], config):
            probes.append(probes[-1])
        else:
            model = model_of_stage(config, inputs.model)
            probes.append(make_probe(config, model, inputs.tokenizer, inputs.mesh, directory))
    return probes


def make_probe(
    config: dict[str, Any], model: PretrainingConfig, tokenizer: Path, mesh: Mesh, directory: Path
) -> Callable[[Any], Metrics] | None:
    """The function that measures parameters as config.probe describes; None without a probe. Raises as
    `open_probe` does."""
    if not config["probe"]["every"]:
        return None
    return open_probe(config, model, load_tokenizer(str(tokenizer)), mesh, directory)


def _open_checkpointer(inputs: RunInputs, workdir: Path) -> Checkpointer:
    reach = reach_of(inputs.config["trouble"])
    return open_checkpoints(workdir, keep=inputs.config["checkpoint"]["keep"], reach=reach)


def _record(
    start: Start, inputs: RunInputs, program: Program, run: RunDirectory, checkpointer: Checkpointer
) -> None:
    """Write what a start leaves in the run directory, and print it."""
    config, workdir, step = inputs.config, run.path, start.step
    run.check_writer()
    fell_back = leave_behind(start, checkpointer, run)
    if not is_main_process():
        return
    new_length = describe_new_length(workdir, step, config, num_left_out(start.state) if step else 0)
    write_run_directory(inputs, program, workdir)
    more = fell_back | record_lost_rows(start, run) | started_from(config, step)
    more |= describe_teachers(config, step)
    record_start(workdir, step, **{LOG_EVERY: config["log"]["every"]}, **new_length, **more)
    if not step and (proposal := propose_settings(config)):
        print(proposal, file=sys.stderr)
    run.publish()
    print(*start_lines(inputs, program.abstract_state), sep="\n", file=sys.stderr, flush=True)
    if note := dtype_note(config["model"]["dtype"], inputs.mesh):
        print(note, file=sys.stderr)


def _train_from(start: Start, stages: list[PreparedStage], running: RunningPretraining) -> None:
    """Train from `start` through the remaining stages to the end of the run."""
    inputs, run, checkpointer = running.inputs, running.run, running.checkpointer
    config, program = inputs.config, stages[0].program  # the initial state is the same in all stages
    workdir, state, step = run.path, start.state, start.step
    if state is None:
        state = first_state(program, config["checkpoint"]["init_from"], workdir)
        state = with_loaded_teachers(state, program.abstract_state.params, config)
    writers = MetricWriters(
        workdir,
        progress=config["log"]["progress"],
        total_steps=config["train"]["num_steps"],
        start_step=step,
        trackers=_trackers(run, config, step),
        is_writer=is_main_process(),
        check=run.check_writer,
    )
    events = EventLog(workdir, start_step=step, is_writer=is_main_process())
    with writers, events:
        record_events(workdir, running.rollbacks, events)
        if is_main_process():
            writers.observe = health_of(inputs, workdir, events)
        services = RunServices(
            writers,
            checkpointer,
            describe_rollbacks(inputs.description, running.rollbacks),
            running.stop,
            None,
            peak_of_devices(config, jax.devices()),
            functools.partial(run.publish, writers.reopen, events.reopen),
            running.programs.first_step_done,
        )
        for stage, probe in zip(stages, running.probes, strict=True):
            if step < stage.inputs.end or stage is stages[-1]:
                read_params = functools.partial(_newest_params, stage.program, running)
                trouble = trouble_services(stage, running, events, read_params)
                state = train_stage(
                    state,
                    stage,
                    unigram_of(stage.inputs, workdir),
                    services._replace(trouble=trouble, probe=probe),
                )


def _newest_params(program: Program, running: RunningPretraining) -> tuple[Any, int]:
    """(parameters of the newest checkpoint, its step), or those before the first step."""
    checkpointer, shapes = running.checkpointer, program.abstract_state.params
    checkpointer.wait()
    if step := exchange(checkpointer.latest_step() or 0)[0]:
        return checkpointer.restore_params(step, shapes), step
    config = running.inputs.config
    state = first_state(program, config["checkpoint"]["init_from"], running.run.path)
    return with_loaded_teachers(state, shapes, config).params, 0


def _trackers(run: RunDirectory, config: dict[str, Any], start: int) -> list[BackgroundTracker]:
    """Those of config.log.trackers, on the main process."""
    if not is_main_process():
        return []
    name = run.name.rstrip("/").rpartition("/")[2]
    return open_trackers(config["log"]["trackers"], TrackedRun(run.path, name, config, start))


def unigram_of(stage: StageInputs, workdir: Path) -> np.ndarray | None:
    """Log-probabilities of the ids in a stage's training text, on the main process, which writes metrics."""
    if not is_main_process():
        return None
    special, objective = SpecialTokens.from_ids(stage.mixture.special), stage.config["objective"]
    masking = "uniform" if objective["denoisers"] else objective["masking"]
    return unigram_log_probabilities(mixture_counts(stage.mixture, workdir), never_masked(masking, special))


def train_stage(
    state: TrainState, stage: PreparedStage, unigram: np.ndarray | None, services: RunServices
) -> TrainState:
    """Train to the end of a stage; returns the last state. `unigram` is that of `unigram_of`. Raises as
    `TrainingLoop.run` does."""
    config, program = stage.inputs.config, stage.program
    with stage.batches as batches, stage.held_out_batches as held_out_batches, services.stop:
        # Compile here, where everything is saved. A run could not save in time while compiling.
        with services.stop.nothing_to_save("compiling"):
            if not stage.compiled:
                stage.compiled.append(_compile(state, program, batches, held_out_batches))
        computation = StageComputation(
            stage.compiled[0],
            lambda params: (
                evaluate(program.evaluation_step, params, held_out_batches, services.stop.check, unigram)
                | program.compare_tables(params)
            ),
            program.schedule,
            stage.inputs.flops_per_token,
        )
        num_steps = config["train"]["num_steps"]
        intervals = Intervals(
            num_steps,
            log=config["log"]["every"],
            evaluate=config["eval"]["every"],
            checkpoint=config["checkpoint"]["every"],
            probe=config["probe"]["every"],
            stop_at=None if stage.inputs.end == num_steps else stage.inputs.end,
        )
        return TrainingLoop(state, computation, batches, intervals, services).run()


def _compile(
    state: TrainState, program: Program, batches: Loader, held_out_batches: EvaluationLoader
) -> jax.stages.Compiled:
    """Compile the evaluation step, which keeps its program, and the training step, which is returned."""
    is_shown = is_main_process()
    with waiting("compiling the evaluation step", is_shown=is_shown):
        program.evaluation_step(state.params, held_out_batches.batch_at(0)["input_ids"], 0)
    with waiting("compiling the training step", is_shown=is_shown):
        train_step = program.train_step.lower(state, batches.batch_at(int(state.step))["input_ids"]).compile()
    if is_shown and train_step.memory_analysis() is not None:  # some back ends do not tell
        memory = memory_of(train_step, program.abstract_state)
        print(memory_line(memory, jax.devices()[0].device_kind), file=sys.stderr)
    return train_step


def peak_of_devices(config: dict[str, Any], devices: Sequence[jax.Device]) -> float | None:
    """FLOPs a second of all devices together: config.log.peak_flops of each, or what is known of the chip
    and the dtype; None for an unknown chip."""
    peak = config["log"]["peak_flops"] or peak_flops(devices[0].device_kind, config["model"]["dtype"])
    return None if peak is None else peak * len(devices)


def first_state(program: Program, initial: str, workdir: Path) -> TrainState:
    """A newly initialised state, with the parameters of the run `initial` if that is not ""."""
    state = program.init()
    if not initial:
        return state
    step, params = initial_params(initial, state.params, program.abstract_state.params)
    print(
        f"{workdir}: starting from the parameters of {parse_checkpoint(initial).directory}, step {step}, "
        "with a fresh optimizer.",
        file=sys.stderr,
    )
    return start_from(state, params)
