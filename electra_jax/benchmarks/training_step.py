"""Speed of whole training steps, ours and PyTorch's, on random tokens.

PyTorch's runs as written and, if there is a C++ compiler, compiled by torch.compile.

Shapes: B batch, L length.
"""

import functools
import itertools
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from data_pipelines.progress import waiting
from electra_jax.benchmarks.timing import Contestant, time_in_turns, tokens_per_second
from electra_jax.distributed.mesh import make_mesh
from electra_jax.distributed.sharding import axis_context, batch_sharding
from electra_jax.models.config import DTYPES, make_pretraining_config
from electra_jax.models.layers import einsum_f32
from electra_jax.objectives.corruption import max_predictions_per_seq
from electra_jax.objectives.registry import forward_flops, make_objective
from electra_jax.planning.compiled import SPECIAL
from electra_jax.training.program import make_program

MATMUL_SIZE = 2048
# Without instructions for bfloat16, PyTorch may take 100 times as long as with float32: a step, minutes.
TOO_SLOW = 10
# Settings that change the work of a step → the value that PyTorch's step has, with any objective …
IN_TORCH = {
    "objective.generator": "model",
    "objective.denoisers": (),
    "objective.z_loss_weight": 0.0,
    "optimizer.name": "adam",
    "train.ema_decay": 0.0,
}
# … and with each that it has.
IN_TORCH_BY_OBJECTIVE = {
    "electra": {"model.position": "absolute", "model.embedding_sharing": "tied", "model.type_vocab_size": 2},
    "deberta_v3": {
        "model.position": "disentangled",
        "model.disentangled.enhanced_mask_decoder": False,
        "model.disentangled.position_biased_input": False,
        "model.disentangled.conv_kernel_size": 0,
        "model.embedding_sharing": "gdes",
        "model.type_vocab_size": 0,
    },
}
Metrics = dict[str, Any]


def require_settings(config: dict[str, Any], expected: Mapping[str, Any], why: str) -> None:
    """Raises ValueError, with `why`, for the first key of a configuration that has not the expected value."""
    values = flatten_dict(config, sep=".")
    for key, value in expected.items():
        if values.get(key) != value:
            raise ValueError(
                f"config.{key}: got {values.get(key)!r}, expected {value!r}: {why}. Give --config another "
                "recipe."
            )


def check_peer(config: dict[str, Any]) -> None:
    """Raises ValueError if PyTorch's step does other work than a training step of `config`; names the key."""
    name = config["objective"]["name"]
    if name not in IN_TORCH_BY_OBJECTIVE:
        raise ValueError(
            f"config.objective.name: got {name!r}, expected one of {', '.join(IN_TORCH_BY_OBJECTIVE)}, which "
            "PyTorch's step has. Give --config another recipe."
        )
    expected = IN_TORCH_BY_OBJECTIVE[name] | IN_TORCH
    if name == "deberta_v3":  # its embeddings are not projected
        size = config["model"]["embedding_size"]
        expected |= {f"model.{encoder}.hidden_size": size for encoder in ("generator", "discriminator")}
    require_settings(config, expected, f"PyTorch's step of {name} has no other")


def compare_steps(
    name: str,
    config: dict[str, Any],
    *,
    batch_size: int,
    length: int,
    num_microbatches: int,
    rounds: int,
    steps: int,
) -> Metrics:
    """Time one training step of `config` on B rows of L tokens, ours and PyTorch's, in float32 and bfloat16.

    Args:
      name: of our step in the figures.
      num_microbatches: of our step; PyTorch's takes the batch at once.

    Raises:
      ValueError: see `check_peer`.
    """
    check_peer(config)
    config = config | {
        "train": config["train"] | {"batch_size": batch_size, "num_microbatches": num_microbatches},
        "data": config["data"] | {"sequence_length": length},
    }
    description = f"{name} {batch_size}x{length}"
    ids_BL = random_rows(config["model"]["vocab_size"], batch_size, length)
    contestants = [
        *jax_contestants(name, config, ids_BL),
        *torch_contestants(config, ids_BL),
        Contestant("matmul", make_matmul()),
    ]
    first_steps = {}
    for contestant in contestants:
        with waiting(f"{description}: first step of {contestant.name}, which compiles"):
            first_steps[contestant.name] = _seconds(contestant.step)
    seconds = time_in_turns(contestants, rounds=rounds, steps=steps, description=description)
    peak = 2.0 * MATMUL_SIZE**3 / float(np.median(seconds.pop("matmul")))
    figures: Metrics = {}
    for contestant, times in seconds.items():
        speed = tokens_per_second(times, ids_BL.size)
        figures |= {
            f"{contestant}_tokens_per_second": speed["median"],
            f"{contestant}_lower_quartile": speed["lower_quartile"],
            f"{contestant}_upper_quartile": speed["upper_quartile"],
            f"{contestant}_first_step_seconds": first_steps[contestant],  # which compiles
        }
    ours = max(figures[f"{name}_{dtype}_tokens_per_second"] for dtype in DTYPES)
    peer = max(
        value
        for key, value in figures.items()
        if key.startswith("torch") and key.endswith("tokens_per_second")
    )
    flops_per_token = forward_flops(config, make_pretraining_config(config["model"]))
    return figures | {
        f"{name}_tokens_per_second": ours,
        "ratio_to_best_peer": ours / peer,
        "float32_matmul_gflops_per_second": peak / 1e9,
        "model_gflops_per_second": 3 * ours * flops_per_token / 1e9,
        "batch_size": batch_size,
        "num_microbatches": num_microbatches,
        "sequence_length": length,
        "cpu_count": os.cpu_count(),
        "jax_version": jax.__version__,
    }


def _seconds(step: Callable[[], object]) -> float:
    began = time.perf_counter()
    step()
    return time.perf_counter() - began


def random_rows(vocab_size: int, batch_size: int, length: int) -> np.ndarray:
    """Rows [B, L] of one segment without padding. Speed does not depend on the tokens."""
    ids_BL = np.random.default_rng(0).integers(5, vocab_size, size=(batch_size, length), dtype=np.int32)
    ids_BL[:, 0], ids_BL[:, -1] = SPECIAL.cls, SPECIAL.sep
    return ids_BL


def jax_contestants(name: str, config: dict[str, Any], ids_BL: np.ndarray) -> list[Contestant]:
    """Our step, computing in each dtype; parameters are always float32."""
    contestants = []
    for dtype in DTYPES:
        with_dtype = config | {"model": config["model"] | {"dtype": dtype}}
        contestants.append(Contestant(f"{name}_{dtype}", make_jax_step(with_dtype, ids_BL)))
    return contestants


def make_jax_step(config: dict[str, Any], ids_BL: np.ndarray) -> Callable[[], object]:
    """The training step as `pretrain` compiles it, on rows that are already on the device."""
    objective = make_objective(config, make_pretraining_config(config["model"]), SPECIAL)
    mesh = make_mesh(config["mesh"])
    with axis_context(mesh):
        program = make_program(config, objective, mesh)
        state = program.init()
        batch = jax.device_put(ids_BL, batch_sharding(mesh))

    def step() -> None:
        nonlocal state
        with axis_context(mesh):
            state, window = program.train_step(state, batch)
        jax.block_until_ready((state, window))

    return step


def torch_contestants(config: dict[str, Any], ids_BL: np.ndarray) -> list[Contestant]:
    """PyTorch's step in each dtype, as written and compiled. PyTorch is imported here, which other suites do
    without."""
    from electra_jax.benchmarks.torch_deberta import make_torch_deberta
    from electra_jax.benchmarks.torch_electra import make_torch_electra
    from electra_jax.benchmarks.torch_step import bfloat16_slowdown, compile_models, make_torch_step

    make_models = {"electra": make_torch_electra, "deberta_v3": make_torch_deberta}[
        config["objective"]["name"]
    ]
    num_predictions = max_predictions_per_seq(config["objective"]["mask_prob"], ids_BL.shape[1])
    dtypes = DTYPES
    if (times := bfloat16_slowdown()) > TOO_SLOW:
        print(
            f"A bfloat16 matrix product takes PyTorch {times:,.0f} times as long as a float32 one on this "
            "processor: its bfloat16 steps are not measured.",
            file=sys.stderr,
        )
        dtypes = ("float32",)
    modes = {"torch": lambda models: models}
    if obstacle := _obstacle_to_compiling():
        print(f"{obstacle}: torch.compile is not measured.", file=sys.stderr)
    else:
        modes["torch_compiled"] = compile_models
    contestants = []
    for (mode, prepare), dtype in itertools.product(modes.items(), dtypes):
        step = make_torch_step(
            prepare(make_models(make_pretraining_config(config["model"]))),
            config["objective"],
            ids_BL,
            SPECIAL,
            num_predictions=num_predictions,
            autocast=dtype == "bfloat16",
        )
        contestants.append(Contestant(f"{mode}_{dtype}", step))
    return contestants


def _obstacle_to_compiling() -> str:
    """Why torch.compile cannot compile for a CPU here; "" if it can."""
    if shutil.which(os.environ.get("CXX") or "g++") is None:
        return "There is no C++ compiler (g++, or $CXX)"
    (directory,) = find_spec("torch").submodule_search_locations
    if len(directory.split()) > 1:
        return f"PyTorch is in {directory}, and torch.compile does not quote the space in it"
    return ""


def make_matmul() -> Callable[[], object]:
    """One large float32 matrix product: an upper bound of the speed that a step can reach."""
    x = jnp.ones((MATMUL_SIZE, MATMUL_SIZE), jnp.float32)
    matmul = jax.jit(functools.partial(einsum_f32, "MK,KN->MN", "float32"))
    return lambda: matmul(x, x).block_until_ready()
