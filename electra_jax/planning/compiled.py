"""A training step compiled for devices that need not be there, and what its compiler says of it."""

import math
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import jaxprs_in_params
from jax.sharding import Mesh

from electra_jax.distributed.mesh import make_mesh
from electra_jax.distributed.sharding import axis_context, batch_sharding, check_batch
from electra_jax.models.config import LayerExecution, make_pretraining_config
from electra_jax.models.inputs import SpecialTokens
from electra_jax.objectives.registry import make_objective
from electra_jax.planning.collectives import Collective, read_collectives
from electra_jax.training.program import make_program
from electra_jax.training.state import AveragedTrainState, TrainState

SPECIAL = SpecialTokens(pad=0, cls=1, sep=2, mask=4, unk=3)  # which ids these are makes no difference
# Autotuning needs a real GPU; without it XLA takes its defaults for matrix products.
GPU_OPTIONS = {"xla_gpu_autotune_level": 0}
UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


class Memory(NamedTuple):
    """Bytes a device. `optimizer`: its state, and a moving average of the parameters. `temporary` is what the
    step needs while it runs, gradients and activations above all."""

    parameters: int
    optimizer: int
    batch_and_metrics: int
    temporary: int
    program: int

    @property
    def total(self) -> int:
        return sum(self)


class CompiledStep(NamedTuple):
    """`flops`: of the whole step on all devices, products of matrices only, with what is computed again;
    counted in the program before compilation. `compiler_flops`: what XLA counts on one device, loop bodies
    once; None where it does not count. `collectives`: None where the compiler's program cannot be read."""

    memory: Memory
    flops: float
    compiler_flops: float | None
    collectives: list[Collective] | None


class DoesNotFitError(MemoryError):
    """The compiler refuses a program for its size. needed, available: bytes a device."""

    def __init__(self, message: str, needed: int, available: int):
        super().__init__(message)
        self.needed, self.available = needed, available


def trace_step(
    config: dict[str, Any], devices: list[jax.Device]
) -> tuple[jax.stages.Traced, TrainState, Mesh]:
    """The training step of `config` as `pretrain` runs it, its state as shapes, and the mesh.

    Raises:
      ValueError: the configuration does not fit the devices.
    """
    train = config["train"]
    model = make_pretraining_config(config["model"], LayerExecution(train["layers"], train["remat"]))
    objective = make_objective(config, model, SPECIAL)
    mesh = make_mesh(config["mesh"], devices)
    check_batch(train["batch_size"], train["num_microbatches"], mesh)
    program = make_program(
        config, objective, mesh
    )  # outside of the mesh's context, in which optax would put arrays on it
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
        return traced.lower().compile(options(device))


def options(device: jax.Device) -> dict[str, Any] | None:
    """Compiler options that compiling without the device needs."""
    return GPU_OPTIONS if device.platform == "gpu" else None


def measure_step(config: dict[str, Any], devices: list[jax.Device], available: int | None) -> CompiledStep:
    """Compile the step and read what the compiler says; `available` bytes a device, None where that is not to
    be checked.

    Raises:
      DoesNotFitError: the step needs more. ValueError: the configuration does not fit the devices.
    """
    traced, state, mesh = trace_step(config, devices)
    try:
        compiled = _compile(traced, mesh, devices[0])
    except jax.errors.JaxRuntimeError as error:
        raise _refusal(error) from error
    stats = compiled.memory_analysis()
    parameters, optimizer = (_bytes_of(tree) for tree in (state.params, state.opt_state))
    if isinstance(state, AveragedTrainState):
        optimizer += _bytes_of(state.ema)
    arguments = stats.argument_size_in_bytes
    memory = Memory(
        parameters,
        optimizer,
        arguments - parameters - optimizer,
        stats.temp_size_in_bytes + stats.output_size_in_bytes - stats.alias_size_in_bytes,
        stats.generated_code_size_in_bytes,
    )
    if available is not None and memory.total > available:
        raise DoesNotFitError(
            "the compiled step's buffers come to more than the device has", memory.total, available
        )
    cost = compiled.cost_analysis()
    return CompiledStep(
        memory, matmul_flops(traced.jaxpr.jaxpr), cost and cost.get("flops"), _collectives(compiled)
    )


def _refusal(error: jax.errors.JaxRuntimeError) -> Exception:
    """What a TPU's compiler says when memory does not suffice, as an error with numbers; another error as it
    is."""
    text = str(error)
    said = re.search(r"\(([\d.]+)([KMGT]?)\) exceeds available HBM \(([\d.]+)([KMGT]?)\)", text)
    said = said or re.search(r"Used ([\d.]+)([KMGT]?) of ([\d.]+)([KMGT]?) hbm", text)
    if "RESOURCE_EXHAUSTED" not in text or said is None:
        return error
    needed, available = (
        int(float(number) * UNITS[unit]) for number, unit in (said.group(1, 2), said.group(3, 4))
    )
    return DoesNotFitError(text.splitlines()[0], needed, available)


def _bytes_of(tree: Any) -> int:
    """On one device, of arrays or shapes with shardings."""
    return sum(
        leaf.dtype.itemsize * math.prod(leaf.sharding.shard_shape(leaf.shape))
        for leaf in jax.tree.leaves(tree)
    )


def _collectives(compiled: jax.stages.Compiled) -> list[Collective] | None:
    try:
        text = compiled.as_text()
    except jax.errors.JaxRuntimeError:  # of some TPUs libtpu cannot print every program
        return None
    return read_collectives(text)


def matmul_flops(jaxpr: Any) -> float:
    """Of all matrix products in a program, in loops as often as they turn."""
    total = 0.0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left = equation.invars[0].aval.shape
            total += (
                2.0 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[axis] for axis in contracted)
            )
        turns = equation.params["length"] if equation.primitive.name == "scan" else 1
        total += turns * sum(matmul_flops(inner) for inner in jaxprs_in_params(equation.params))
    return total
