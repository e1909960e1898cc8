"""Throughput of a training step: `python -m electra_jax.benchmark --suite=cpu --json=FILE`.

Suite `cpu`: ELECTRA-small (or another --config), 32 rows of 128, beside the same step in PyTorch `transformers`, each computing
in float32 and in bfloat16 (PyTorch: autocast). `electra_small_tokens_per_second` is the better of ours. The contestants take
turns in one process and medians are reported, so that a busy machine slows all of them. It needs the packages of
`pip install -e '.[test]'`.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from ml_collections import config_flags
from tqdm import tqdm

from electra_jax.benchmarks.timing import Contestant, time_in_turns, tokens_per_second
from electra_jax.distributed.mesh import make_mesh
from electra_jax.distributed.sharding import axis_context, batch_sharding
from electra_jax.models.config import DTYPES, make_pretraining_config
from electra_jax.models.flops import rtd_flops
from electra_jax.models.inputs import SpecialTokens
from electra_jax.objectives.corruption import max_predictions_per_seq
from electra_jax.objectives.rtd import make_electra_objective
from electra_jax.training.program import make_program

SPECIAL = SpecialTokens(pad=0, cls=1, sep=2, mask=4, unk=3)
BATCH_SIZE, SEQUENCE_LENGTH, MATMUL_SIZE = 32, 128, 2048
# Ours in eight parts, whose activations stay in the caches, gives the same update 1.2 times as fast. PyTorch is fastest in one.
NUM_MICROBATCHES = 8
Figures = dict[str, Any]


def cpu_suite(config: dict[str, Any], rounds: int, steps: int) -> Figures:
    """One training step of `config` on the CPU beside PyTorch; speeds in tokens a second."""
    config["train"] |= {"batch_size": BATCH_SIZE, "num_microbatches": NUM_MICROBATCHES}
    config["data"]["sequence_length"] = SEQUENCE_LENGTH
    ids_BL = random_rows(config["model"]["vocab_size"])
    contestants = [*jax_contestants(config, ids_BL), *torch_contestants(config, ids_BL), Contestant("matmul", make_matmul())]
    with tqdm(total=rounds * len(contestants), unit="turn", desc="benchmark", leave=False) as bar:
        seconds = time_in_turns(contestants, rounds=rounds, steps=steps, report=lambda *_: bar.update())
    peak = 2.0 * MATMUL_SIZE**3 / float(np.median(seconds.pop("matmul")))
    figures: Figures = {}
    for name, times in seconds.items():
        speed = tokens_per_second(times, ids_BL.size)
        figures |= {f"{name}_tokens_per_second": speed["median"], f"{name}_lower_quartile": speed["lower_quartile"],
                    f"{name}_upper_quartile": speed["upper_quartile"]}
    ours, peer = (max(figures[f"{name}_{dtype}_tokens_per_second"] for dtype in DTYPES) for name in ("electra_small", "torch"))
    flops = 3 * rtd_flops(make_pretraining_config(config["model"]), SEQUENCE_LENGTH, config["objective"]["mask_prob"])
    return figures | {
        "electra_small_tokens_per_second": ours,
        "ratio_to_better_peer": ours / peer,
        "float32_matmul_gflops_per_second": peak / 1e9,
        "model_gflops_per_second": ours * flops / 1e9,
        "batch_size": BATCH_SIZE,
        "num_microbatches": NUM_MICROBATCHES,
        "sequence_length": SEQUENCE_LENGTH,
        "cpu_count": os.cpu_count(),
        "jax_version": jax.__version__,
    }


def random_rows(vocab_size: int) -> np.ndarray:
    """Full rows [B, L] of one segment: speed does not depend on what the tokens are."""
    ids_BL = np.random.default_rng(0).integers(5, vocab_size, size=(BATCH_SIZE, SEQUENCE_LENGTH), dtype=np.int32)
    ids_BL[:, 0], ids_BL[:, -1] = SPECIAL.cls, SPECIAL.sep
    return ids_BL


def jax_contestants(config: dict[str, Any], ids_BL: np.ndarray) -> list[Contestant]:
    """Our step, computing in each dtype; parameters are float32 in both."""
    return [Contestant(f"electra_small_{dtype}",
                       make_jax_step(config | {"model": config["model"] | {"dtype": dtype}}, ids_BL)) for dtype in DTYPES]


def make_jax_step(config: dict[str, Any], ids_BL: np.ndarray) -> Callable[[], object]:
    """The training step as `pretrain` compiles it, on rows that are already on the device."""
    objective = make_electra_objective(make_pretraining_config(config["model"]), config["objective"], SPECIAL)
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
    """The peers. PyTorch is imported here, so that other suites do without it."""
    from electra_jax.benchmarks.torch_electra import make_torch_step

    num_predictions = max_predictions_per_seq(config["objective"]["mask_prob"], SEQUENCE_LENGTH)
    return [Contestant(f"torch_{dtype}", make_torch_step(make_pretraining_config(config["model"]), config["objective"], ids_BL,
                                                         SPECIAL, num_predictions=num_predictions,
                                                         autocast=dtype == "bfloat16"))
            for dtype in DTYPES]


def make_matmul() -> Callable[[], object]:
    """One large float32 matrix product: the speed that a step can come near to at best."""
    x = jnp.ones((MATMUL_SIZE, MATMUL_SIZE), jnp.float32)
    matmul = jax.jit(jnp.matmul)
    return lambda: matmul(x, x).block_until_ready()


SUITES = {"cpu": cpu_suite}

_CONFIG = config_flags.DEFINE_config_file("config", "configs/electra.py:size=small", "Recipe whose step is timed.",
                                          lock_config=True)
_SUITE = flags.DEFINE_enum("suite", None, sorted(SUITES), "What to measure.", required=True)
_JSON = flags.DEFINE_string("json", None, "File that takes the figures as JSON.")
_ROUNDS = flags.DEFINE_integer("rounds", 5, "Turns of each contestant.", lower_bound=1)
_STEPS = flags.DEFINE_integer("steps", 4, "Timed steps a turn, after one that is not timed.", lower_bound=1)


def main(argv: list[str]) -> None:
    """Command line of this module."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}")
    figures = SUITES[_SUITE.value](_CONFIG.value.to_dict(), _ROUNDS.value, _STEPS.value)
    for key, value in figures.items():
        print(f"{key:36s} {value:,.3f}" if isinstance(value, float) else f"{key:36s} {value}")
    if _JSON.value:
        Path(_JSON.value).write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    app.run(main)
