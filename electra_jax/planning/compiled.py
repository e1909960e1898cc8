"""A training step compiled for devices that may be absent, and what its compiler reports about it."""

import math
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import jaxprs_in_params
from jax.sharding import Mesh

from electra_jax.distributed.mesh import make_mesh
from electra_jax.distributed.sharding import axis_context, batch_sharding, check_batch
from electra_jax.models.config import make_pretraining_config
from electra_jax.models.execution import LayerExecution
from electra_jax.models.inputs import SpecialTokens
from electra_jax.objectives.registry import make_objective
from electra_jax.planning.collectives import Collective, read_collectives
from electra_jax.training.program import make_program
from electra_jax.training.state import TrainState
from electra_jax.training.step_memory import Memory, memory_of

SPECIAL = SpecialTokens(pad=0, cls=1, sep=2, mask=4, unk=3)  # any distinct ids give the same program
# Autotuning needs a real GPU; without it XLA uses its default algorithms for matrix products.
GPU_OPTIONS = {"xla_gpu_autotune_level": 0}
# For some products of small models JAX 0.12's compiler has a Triton kernel, but no default for its tiles.
NO_DEFAULT = "Failed to get configs"
UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


class CompiledStep(NamedTuple):
    """What a compiled step needs, computes and communicates."""

    memory: Memory
    # Of the matrix products on all devices, recomputation included; counted before compilation.
    flops: float
    compiler_flops: float | None  # XLA's count for one device, loop bodies once; None: it gives none
    collectives: list[Collective] | None  # None: the compiler cannot print its program
    hosts: tuple[int, ...]  # of each device, in the order of the mesh


class DoesNotFitError(MemoryError):
    """A step needs more memory than a device has. needed, available: bytes on each device."""

    def __init__(self, message: str, needed: int, available: int):
        super().__init__(message)
        self.needed, self.available = needed, available


def trace_step(
    config: dict[str, Any], devices: list[jax.Device]
) -> tuple[jax.stages.Traced, TrainState, Mesh]:
    """The traced training step of `config` as `pretrain` runs it, its state as shapes, and the mesh.

    Raises:
      ValueError: the configuration does not fit the devices.
    """
    train = config["train"]
    model = make_pretraining_config(config["model"], LayerExecution.of_training(train))
    objective = make_objective(config, model, SPECIAL)
    mesh = make_mesh(config["mesh"], devices)
    check_batch(train["batch_size"], train["num_microbatches"], mesh)
    # Outside the mesh's context, in which optax would place its constants on absent devices.
    program = make_program(config, objective, mesh)
    with axis_context(mesh):
        rows = jax.ShapeDtypeStruct(
            (train["batch_size"], config["data"]["sequence_length"]), jnp.int32, sharding=batch_sharding(mesh)
        )
        return program.train_step.trace(program.abstract_state, rows), program.abstract_state, mesh


def compile_step(config: dict[str, Any], devices: list[jax.Device]) -> jax.stages.Compiled:
    """The compiled step; see `trace_step` for errors."""
    traced, _, mesh = trace_step(config, devices)
    return _compile(traced, mesh, devices[0])


def _compile(traced: jax.stages.Traced, mesh: Mesh, device: jax.Device) -> jax.stages.Compiled:
    with axis_context(mesh):
        return compile_for(device, traced.lower())


def compile_for(device: jax.Device, lowered: jax.stages.Lowered) -> jax.stages.Compiled:
    """The program for a device, which may be absent."""
    if device.platform != "gpu":
        return lowered.compile()
    try:
        return lowered.compile(GPU_OPTIONS)
    except jax.errors.JaxRuntimeError as error:
        if NO_DEFAULT not in str(error):
            raise
        return lowered.compile(GPU_OPTIONS | {"xla_gpu_enable_triton_gemm": False})


def measure_step(config: dict[str, Any], devices: list[jax.Device], available: int | None) -> CompiledStep:
    """Compile the step and read the compiler's figures.

    Args:
      available: bytes of memory on each device; None: not checked.

    Raises:
      DoesNotFitError: the step needs more memory.
      ValueError: the devices cannot share the batch, or the mesh does not divide them or the model.
    """
    traced, state, mesh = trace_step(config, devices)
    try:
        compiled = _compile(traced, mesh, devices[0])
    except jax.errors.JaxRuntimeError as error:
        sizes = read_refusal(str(error))
        if sizes is None:
            raise
        raise DoesNotFitError(str(error).splitlines()[0].rstrip("."), *sizes) from error
    memory = memory_of(compiled, state)
    if available is not None and memory.total > available:
        raise DoesNotFitError(
            "the compiled step's buffers need more memory than the device has", memory.total, available
        )
    cost = compiled.cost_analysis()
    compiler_flops = cost and cost.get("flops")
    hosts = tuple(device.process_index for device in mesh.devices.flat)
    flops = matmul_flops(traced.jaxpr.jaxpr)
    return CompiledStep(memory, flops, compiler_flops, _collectives(compiled), hosts)


def read_refusal(text: str) -> tuple[int, int] | None:
    """(needed, available) bytes from a TPU compiler's out-of-memory message; None: it is another message."""
    sizes = re.search(r"\(([\d.]+)([KMGT]?)\) exceeds available HBM \(([\d.]+)([KMGT]?)\)", text)
    sizes = sizes or re.search(r"Used ([\d.]+)([KMGT]?) of ([\d.]+)([KMGT]?) hbm", text)
    if "RESOURCE_EXHAUSTED" not in text or sizes is None:
        return None
    return int(float(sizes[1]) * UNITS[sizes[2]]), int(float(sizes[3]) * UNITS[sizes[4]])


def _collectives(compiled: jax.stages.Compiled) -> list[Collective] | None:
    try:
        text = compiled.as_text()
    except jax.errors.JaxRuntimeError:  # for some TPUs libtpu cannot print every program
        return None
    return read_collectives(text)


def matmul_flops(jaxpr: Any) -> float:
    """FLOPs of all matrix products in a program, those in loops once per iteration, those in kernels as they
    estimate them or once for each step of their grid, and those of shards once for each."""
    total = 0.0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "pallas_call" and equation.params["cost_estimate"] is not None:
            total += equation.params["cost_estimate"].flops
            continue
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left = equation.invars[0].aval.shape
            num_outputs = math.prod(equation.outvars[0].aval.shape)
            total += 2.0 * num_outputs * math.prod(left[axis] for axis in contracted)
        total += _times_run(equation) * sum(map(matmul_flops, jaxprs_in_params(equation.params)))
    return total


def _times_run(equation: Any) -> int:
    """How often the programs in an equation run, on all devices."""
    params = equation.params
    if equation.primitive.name == "scan":
        return params["length"]
    if equation.primitive.name == "pallas_call":
        return math.prod(params["grid_mapping"].grid)
    if equation.primitive.name == "shard_map":
        return params["mesh"].size  # no axis of it is left to the compiler
    return 1
