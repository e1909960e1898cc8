"""Loss and gradient norm of the debug recipes' first steps, compared with tests/golden/steps.json.

They depend on every part of a step: initialisation, masking, sampling, dropout, both encoders, losses,
clipping and the optimizer. The compiler's optimisation level and the number of devices change them by at most
8e-8 of their value; the tolerance is a hundred times that.
"""

import jax
import pytest

from configs import debug
from electra_jax.configuration.sizes import with_assumed_sizes
from electra_jax.distributed.mesh import make_mesh
from support import tiny
from support.tiny import LENGTH
from support.training_steps import run_steps

RELATIVE_TOLERANCE = 1e-5
METHODS = {"electra": tiny.electra, "deberta_v3": tiny.deberta, "mcl": tiny.mcl}


def debug_recipe(method):
    """The debug recipe, with dropout and with a rate that is not zero in the steps recorded here."""
    full = with_assumed_sizes(debug.get_config(f"model={method}").to_dict())
    full["model"] |= {"hidden_dropout": 0.1, "attention_dropout": 0.1}
    full["data"]["sequence_length"] = LENGTH
    full["optimizer"]["warmup_steps"] = 2
    full["train"]["batch_size"] = 8
    full["log"]["every"] = 1
    return full


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_first_steps_are_the_recorded_ones(method, golden):
    mesh = make_mesh({"data": 1, "fsdp": 1, "tensor": 1}, jax.devices()[:1])
    _, _, windows = run_steps(debug_recipe(method), mesh, 3, make=METHODS[method])
    numbers = {
        f"step_{step}": {name: float(windows[step - 1][name]) for name in ("loss", "gradient_norm")}
        for step in (1, 3)
    }
    golden.check_numbers(
        "steps.json", method, numbers, rtol=RELATIVE_TOLERANCE, what="what a training step computes"
    )
