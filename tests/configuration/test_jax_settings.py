"""JAX settings in the environment that decide which random numbers are drawn change nothing in a command."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np

from electra_jax.objectives.corruption import mask_tokens
from support.paths import ROOT
from support.tiny import SPECIAL

CHANGED = {
    "JAX_DEFAULT_PRNG_IMPL": "rbg",
    "JAX_ENABLE_X64": "1",
    "JAX_THREEFRY_PARTITIONABLE": "0",
    "JAX_RANDOM_SEED_OFFSET": "5",
}
COMMAND = """
import numpy as np
from electra_jax.configuration.process_setup import prepare_process
from test_jax_settings import drawn

prepare_process()
for array in drawn():
    print(array.dtype, np.asarray(array).tobytes().hex())
"""


def drawn():
    """What a run draws for two rows: positions, what the generator sees, and numbers for its samples; and
    initial weights."""
    ids_BL = jnp.arange(2 * 32, dtype=jnp.int32).reshape(2, 32) % 20 + 10
    noise = mask_tokens(
        jax.random.key(3, impl="threefry2x32"),
        ids_BL,
        SPECIAL,
        masking="uniform",
        mask_prob=0.25,
        mask_token_prob=0.8,
        type_vocab_size=2,
    )
    weights_E = jax.random.normal(jax.random.key(0), (4,), jnp.float32)
    return noise.positions_BP, noise.masked_ids_BL, noise.uniforms_BP, weights_E


def test_a_command_draws_the_same_whatever_the_environment_has():
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests"), os.path.dirname(__file__)])
    done = subprocess.run(
        [sys.executable, "-c", COMMAND],
        env=os.environ | CHANGED | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=True,
    )
    expected = [f"{array.dtype} {np.asarray(array).tobytes().hex()}" for array in drawn()]
    assert done.stdout.splitlines() == expected
    (line,) = [line for line in done.stderr.splitlines() if "JAX_" in line]
    assert all(name in line for name in CHANGED)
