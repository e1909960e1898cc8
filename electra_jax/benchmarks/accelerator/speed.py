"""Speed and memory of the training step as `pretrain` runs it: real loader, real step, in bfloat16.

A step's time is measured twice: on a batch that is on the device already (what the device computes), and on
batches from the loader, which reads rows from disk and copies them to the device. Each time, several windows
of steps are timed with one wait at the end of each, and the median is taken. Model FLOPs are those of
models/flops.py, three forward passes.
"""

import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from data_pipelines.loader import Loader
from data_pipelines.mixture import DatasetSource, Mixture, make_mixture
from electra_jax.benchmarks.accelerator.corpus import build_rows
from electra_jax.benchmarks.accelerator.parity import without_decoder
from electra_jax.benchmarks.accelerator.parts import Job
from electra_jax.configuration.recipes import load_config, own_recipe
from electra_jax.configuration.sizes import with_assumed_sizes
from electra_jax.distributed.chips import GIB
from electra_jax.distributed.mesh import make_mesh
from electra_jax.distributed.sharding import axis_context, batch_sharding
from electra_jax.models.config import make_pretraining_config
from electra_jax.models.execution import LayerExecution
from electra_jax.models.inputs import SpecialTokens
from electra_jax.objectives.registry import forward_flops, make_objective
from electra_jax.planning.stages import with_accelerator_settings
from electra_jax.training.program import make_program
from electra_jax.training.step_memory import memory_of

NUM_WINDOWS = 5
SECONDS_OF_WINDOW = 1.0
MAX_STEPS_OF_WINDOW = 50


class Case(NamedTuple):
    """A model and a row length."""

    recipe: str
    length: int
    rows: int  # of one device with ROWS_MEMORY
    rows_on_cpu: int


ROWS_MEMORY = 72 * GIB  # what a program can use of an H100
CASES = {
    "electra_small_128": Case("configs/electra.py:size=small", 128, 1024, 8),
    "electra_base_128": Case("configs/electra.py:size=base", 128, 256, 4),
    "electra_base_512": Case("configs/electra.py:size=base", 512, 64, 1),
    "deberta_v3_base_512": Case("configs/deberta_v3.py:size=base", 512, 64, 1),
}
CPU_LAYERS, CPU_VOCABULARY = 2, 8192


def run_part(job: Job) -> None:
    """Measure a case, with fewer rows if the first choice does not fit."""
    case, device = CASES[job.part.case], job.device
    rows = choose_rows(case, device)
    while True:
        try:
            return measure(job, make_config(case, device, rows), device)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error) or rows == device["num_devices"]:
                raise
            job.recorder.remark(f"{rows} rows do not fit.")
            rows = max(rows // 2 // device["num_devices"], 1) * device["num_devices"]


def choose_rows(case: Case, device: dict[str, Any]) -> int:
    """Rows of a batch for all devices: as many as fit by a rule of three, rounded down to a power of two."""
    if device["platform"] == "cpu":
        return case.rows_on_cpu * device["num_devices"]
    share = (device["memory_limit"] or ROWS_MEMORY / 8) / ROWS_MEMORY
    return 2 ** max(0, int(np.floor(np.log2(case.rows * share * 1.05)))) * device["num_devices"]


def make_config(case: Case, device: dict[str, Any], rows: int) -> dict[str, Any]:
    """The recipe as accelerators run it. A CPU gets fewer layers and a smaller vocabulary."""
    config = without_decoder(with_assumed_sizes(load_config(own_recipe(case.recipe)).to_dict()))
    if device["platform"] == "cpu":
        config["model"] |= {"dtype": "bfloat16", "vocab_size": CPU_VOCABULARY}
        for encoder in ("generator", "discriminator"):
            config["model"][encoder] |= {"num_layers": CPU_LAYERS}
    else:
        config = with_accelerator_settings(config)
    config["data"] |= {"sequence_length": case.length}
    config["train"] |= {"batch_size": rows, "num_microbatches": 1}
    return config


class SpreadIds:
    """A mixture whose ids are spread over a larger vocabulary, so that lookups are as scattered."""

    def __init__(self, mixture: Mixture, vocab_size: int):
        self._mixture = mixture
        self.sources, self.special = mixture.sources, mixture.special
        self.sequence_length, self.num_examples = mixture.sequence_length, mixture.num_examples
        self.dtype, self.rows_at = np.dtype(np.int32), mixture.rows_at
        first = max(mixture.special) + 1
        known = max(info.vocab_size for info in mixture.infos)
        self._ids = np.arange(known, dtype=np.int32)
        # A multiple of a prime that does not divide the vocabulary: different ids stay different.
        spread = np.arange(known - first, dtype=np.int64) * 7919 % (vocab_size - first)
        self._ids[first:] = first + spread

    def read(self, dataset_index: np.ndarray, row: np.ndarray) -> np.ndarray:
        """Token ids [n, L] of rows of the mixture."""
        return self._ids[self._mixture.read(dataset_index, row)]


def make_rows(job: Job, config: dict[str, Any]) -> SpreadIds:
    """The rows to train on, from disk."""
    path: Path = build_rows(job.work / "text", config["data"]["sequence_length"])
    return SpreadIds(make_mixture([DatasetSource(str(path))], seed=0), config["model"]["vocab_size"])


def measure(job: Job, config: dict[str, Any], device: dict[str, Any]) -> None:
    """Compile the step, time it, and record speed and memory as they are known."""
    rows = make_rows(job, config)
    mesh = make_mesh(config["mesh"])
    train, length = config["train"], config["data"]["sequence_length"]
    model = make_pretraining_config(config["model"], LayerExecution.of_training(train))
    flops = 3.0 * forward_flops(config, model)  # of a token
    job.recorder.add(
        batch_size=train["batch_size"],
        sequence_length=length,
        layers=[config["model"][encoder]["num_layers"] for encoder in ("generator", "discriminator")],
        vocab_size=config["model"]["vocab_size"],
        is_reduced=device["platform"] == "cpu",
        model_flops_per_token=flops,
    )
    with axis_context(mesh), make_loader(config, rows, mesh) as loader:
        objective = make_objective(config, model, SpecialTokens.from_ids(rows.special))
        program = make_program(config, objective, mesh)
        state, first = program.init(), loader.batch_at(0)["input_ids"]
        began = time.perf_counter()
        step = program.train_step.lower(state, first).compile()
        job.recorder.add(
            compile_seconds=time.perf_counter() - began,
            compiled_bytes=memory_of(step, program.abstract_state).total,
        )
        timed = time_steps(step, state, first, loader)
    tokens_per_second = train["batch_size"] * length / timed["step_seconds"] / device["num_devices"]
    peak = device["peak_flops"] or device["product_flops"]
    job.recorder.add(
        **timed,
        tokens_per_second=tokens_per_second,
        utilization=tokens_per_second * flops / peak,
        utilization_of="peak" if device["peak_flops"] else "product",
        utilization_peak=peak,
        peak_bytes=(jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use"),
        peak_host_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    )
    is_finite = bool(np.isfinite(timed["loss"]))
    job.recorder.check("the loss is finite", is_finite, got=timed["loss"], expected="a finite number")


def make_loader(config: dict[str, Any], rows: SpreadIds, mesh: Mesh) -> Loader:
    """The loader of `pretrain`."""
    return Loader(
        rows,
        batch_size=config["train"]["batch_size"],
        sharding=batch_sharding(mesh),
        prefetch=config["data"]["prefetch"],
    )


def time_steps(step: Callable, state: Any, first: jax.Array, loader: Loader) -> dict[str, Any]:
    """Median seconds of a step on a batch that is on the device, and on batches of the loader; the loss."""
    window: Any = None

    def run(number: int, batch_at: Callable[[int], jax.Array]) -> float:
        nonlocal state, window
        began = time.perf_counter()
        for index in range(number):
            state, window = step(state, batch_at(index))
        jax.block_until_ready((state, window))
        return (time.perf_counter() - began) / number

    run(2, lambda _: first)
    once = run(1, lambda _: first)
    number = min(MAX_STEPS_OF_WINDOW, max(1, round(SECONDS_OF_WINDOW / once)))
    compute = [run(number, lambda _: first) for _ in range(NUM_WINDOWS)]
    place = 1
    loader.batch_at(0)
    waited, steps = loader.seconds_waited, []
    for _ in range(NUM_WINDOWS):
        steps.append(run(number, lambda index: loader.batch_at(place + index)["input_ids"]))  # noqa: B023
        place += number
    waited = (loader.seconds_waited - waited) / (NUM_WINDOWS * number)
    sums = jax.device_get(window)
    return {
        "steps_of_window": number,
        "compute_seconds": statistics.median(compute),
        "step_seconds": statistics.median(steps),
        "input_wait_seconds": waited,
        "loss": float(sums["loss"] / sums["steps"]),
    }
