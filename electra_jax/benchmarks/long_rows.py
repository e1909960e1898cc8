"""ModernBERT's global and local attention on an absent TPU v5e, in rows of several lengths: the plain form
and the kernels, forward and backward.

Shapes: B batch, L length, D hidden.
"""

import itertools
import re
from typing import Any

import jax
import jax.numpy as jnp

from data_pipelines.progress import waiting
from electra_jax.benchmarks.training_step import SPECIAL, Metrics, random_rows
from electra_jax.distributed.absent_devices import absent_devices
from electra_jax.distributed.mesh import make_mesh
from electra_jax.distributed.sharding import axis_context, replicated
from electra_jax.models.config import EncoderConfig, make_pretraining_config
from electra_jax.models.inputs import derive_inputs
from electra_jax.models.rotary import RotarySelfAttention, make_rotations
from electra_jax.planning.compiled import compile_for
from electra_jax.planning.compiler_log import compiler_messages_in_a_file
from electra_jax.training.state import unbox

DEVICE = "v5e:1x1"
LENGTHS = (512, 1024, 2048, 8192)
LOCAL_LENGTHS = (512, 8192)  # in local attention a token's cost hardly depends on the length
NUM_TOKENS = 8192  # of the batch, at every length
FORMS = ("plain", "pallas")  # values of config.train.attention


def long_row_figures(config: dict[str, Any]) -> Metrics:
    """Temporary MiB, and the compiler's estimate of cycles outside kernels in millions, of each form."""
    config = config | {"model": config["model"] | {"dtype": "bfloat16"}}
    encoder = make_pretraining_config(config["model"]).discriminator
    figures: Metrics = {}
    with compiler_messages_in_a_file(), waiting(f"compiling for {DEVICE}"):
        (device,) = absent_devices(DEVICE)
        for is_global, lengths in ((True, LENGTHS), (False, LOCAL_LENGTHS)):
            for length, form in itertools.product(lengths, FORMS):
                compiled = compile_attention(encoder, is_global, form, device, NUM_TOKENS // length, length)
                name = f"{'global' if is_global else 'local'}_{length}_{form}"
                figures[f"{name}_temporary_mib"] = compiled.memory_analysis().temp_size_in_bytes / 2**20
                figures[f"{name}_mcycles_outside_kernels"] = estimated_cycles(compiled.as_text()) / 1e6
    return figures


def compile_attention(
    encoder: EncoderConfig, is_global: bool, form: str, device: jax.Device, batch_size: int, length: int
) -> jax.stages.Compiled:
    """Output and gradients of a global or local layer's attention with its projections, compiled for the
    device."""
    ids_BL = random_rows(encoder.vocab_size, batch_size, length)
    layer = RotarySelfAttention(encoder, is_global=is_global, is_first_layer=False, form=form)

    def arguments(x_BLD):
        inputs = derive_inputs(jnp.asarray(ids_BL), SPECIAL, 0)
        return x_BLD, inputs, True, make_rotations(encoder, inputs.positions_BL)

    def init(x_BLD):
        return unbox(layer.init(jax.random.key(0), *arguments(x_BLD))["params"])

    def gradients(params, x_BLD, gradient_BLD):
        apply = lambda params, x_BLD: layer.apply({"params": params}, *arguments(x_BLD))
        y_BLD, pull_back = jax.vjp(apply, params, x_BLD)
        return y_BLD, pull_back(gradient_BLD)

    mesh = make_mesh({"data": 1, "fsdp": 1, "tensor": 1}, [device])
    with axis_context(mesh):  # tells the layer which device it is for
        x_BLD = jax.ShapeDtypeStruct((batch_size, length, encoder.hidden_size), encoder.dtype)
        shapes = jax.eval_shape(init, x_BLD), x_BLD, x_BLD
        place = lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=replicated(mesh))
        return compile_for(device, jax.jit(gradients).lower(*jax.tree.map(place, shapes)))


def estimated_cycles(program_text: str) -> int:
    """The sum of a TPU compiler's estimates for all operations in a program's HLO text; those of a loop
    count once for each of its iterations, those of kernels not at all.

    Raises:
      ValueError: it is not clear how often a loop runs.
    """
    lines_of: dict[str, list[str]] = {}
    entry = ""
    for line in program_text.splitlines():
        if begins := re.match(r"(ENTRY )?%?([\w.-]+) .*\{$", line):
            name = begins[2]
            lines_of[name] = []
            entry = name if begins[1] else entry
        elif lines_of:
            lines_of[name].append(line)

    def cycles(name: str) -> int:
        total = 0
        for line in lines_of[name]:
            if loop := re.search(r" while\(.*condition=%?([\w.-]+), body=%?([\w.-]+)", line):
                total += num_iterations(loop[1]) * cycles(loop[2])
            elif estimate := re.search(r'"estimated_cycles":"(\d+)"', line):
                total += int(estimate[1])
        return total

    def num_iterations(condition: str) -> int:
        """The one constant with which a counted loop compares its counter."""
        limits = re.findall(r" constant\((\d+)\)", "\n".join(lines_of[condition]))
        if len(limits) != 1:
            raise ValueError(f"the loop with condition {condition}: got limits {limits}, expected one.")
        return int(limits[0])

    return cycles(entry)
