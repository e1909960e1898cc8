"""Prints the HLO text of a small program with communication, compiled for a device that may be absent.

    export PYTHONPATH=.venv/compilers:. JAX_PLATFORMS=cpu
    python tests/support/record_hlo.py v5e:2x2 > tests/golden/hlo/v5e.txt    # also h100:4 and cpu:4

tests/golden/hlo/ holds what this printed for each compiler whose text electra_jax/planning/collectives.py
reads. The program computes the loss and gradients of five scanned layers; parameters and batch are sharded
over four devices.
"""

import re
import sys

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from electra_jax.distributed.absent_devices import absent_devices
from electra_jax.planning.compiled import compile_for

LAYERS, WIDTH, ROWS = 5, 256, 1024
KEPT = ("HloModule", "all-", "reduce-scatter", "calls=", "while(", "constant(", "compare(")  # parts of lines


def main(device: str) -> None:
    """Print the program's computations, with their communication, calls, loops and loop bounds."""
    devices = absent_devices(device)
    mesh = Mesh(devices, ("fsdp",))
    sharding = lambda *axes: NamedSharding(mesh, PartitionSpec(*axes))
    weights = jax.ShapeDtypeStruct((LAYERS, WIDTH, WIDTH), jnp.float32, sharding=sharding(None, "fsdp"))
    rows = jax.ShapeDtypeStruct((ROWS, WIDTH), jnp.bfloat16, sharding=sharding("fsdp"))

    def loss(weights, rows):
        layer = lambda x, weight: (jnp.tanh(x @ weight.astype(jnp.bfloat16)), None)
        return jnp.square(jax.lax.scan(layer, rows, weights)[0].astype(jnp.float32)).mean()

    step = jax.jit(jax.value_and_grad(loss), out_shardings=(sharding(), weights.sharding))
    text = compile_for(devices[0], step.lower(weights, rows)).as_text()
    for line in text.splitlines():
        if line == "}" or line.endswith("{") or any(part in line for part in KEPT):
            line = re.sub(r", metadata=\{[^{}]*\}", "", line)
            print(line if "known_trip_count" in line else line.partition(", backend_config=")[0])


if __name__ == "__main__":
    main(sys.argv[1])
