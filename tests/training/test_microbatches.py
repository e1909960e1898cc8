"""The losses and metrics of a step do not depend on the number of microbatches, dropout included."""

import functools

import jax
import numpy as np
import pytest

from electra_jax.distributed.mesh import make_mesh
from electra_jax.models.config import encoder_shape, make_pretraining_config
from electra_jax.objectives.registry import make_objective
from electra_jax.training import program
from support.tiny import (
    SPECIAL,
    deberta_section,
    model_section,
    modern_section,
    objective_section,
    relative_section,
)
from support.training_steps import config, plain_descent, run_steps

NOISY = {"hidden_dropout": 0.2, "attention_dropout": 0.2}
SMALL = {"vocab_size": 64, "initializer": "published"}
# A second layer would draw its noise in the same way.
ONE_LAYER = {name: encoder_shape(32, 1) | {"num_heads": 2} for name in ("generator", "discriminator")}
GLOBAL_AND_LOCAL = {
    name: modern_section()[name] | {"num_layers": number}
    for name, number in (("generator", 1), ("discriminator", 2))
}
NUM_STEPS = 3
ROTARY = modern_section()["rotary"] | {"attention_output_dropout": 0.2}
# Name: (config.model, config.objective). Each objective once, and each model.
FAMILIES = {
    "unigram": (model_section(**ONE_LAYER), objective_section(generator="unigram")),
    "mlm with relative bias": (relative_section(**ONE_LAYER), objective_section("mlm")),
    "deberta_v3": (deberta_section(), objective_section("deberta_v3")),
    "electra with modernbert": (modern_section(rotary=ROTARY, **GLOBAL_AND_LOCAL), objective_section()),
    "mcl": (
        model_section(**ONE_LAYER),
        objective_section("mcl", std_weight=5.0, itd_weight=5.0, re_rtd_weight=5.0, re_std_weight=5.0),
    ),
    "electric": (model_section(**ONE_LAYER), objective_section("electric", vocab_chunk_size=16)),
    "adversarial": (model_section(**ONE_LAYER), objective_section("adversarial")),
    "prop": (model_section(**ONE_LAYER), objective_section("prop")),
    "all_tokens_mlm": (model_section(**ONE_LAYER), objective_section("all_tokens_mlm", vocab_chunk_size=16)),
}


@pytest.fixture(autouse=True)
def plain_optimizer(monkeypatch):
    """An update reads the gradients alone, however they were summed."""
    monkeypatch.setattr(program, "make_optimizers", plain_descent())


@functools.cache
def windows(family, num_microbatches, sizes=(1, 1, 1), **changes):
    """The metric sums after each step of a new run."""
    model, objective = FAMILIES[family]
    full = config(train={"num_microbatches": num_microbatches})
    full["model"], full["objective"] = model | SMALL | NOISY | changes, objective
    mesh = make_mesh(
        dict(zip(("data", "fsdp", "tensor"), sizes, strict=True)), jax.devices()[: np.prod(sizes)]
    )
    make = lambda model, **_: make_objective(full, make_pretraining_config(model), SPECIAL)
    return run_steps(full, mesh, NUM_STEPS, make=make)[2]


def check_same(got, expected):
    for step, (ours, reference) in enumerate(zip(got, expected, strict=True)):
        assert ours.keys() == reference.keys()
        for name in reference:
            # A logit at the edge of a bin may fall on its other side.
            tolerance = 2.0 if name.endswith("histogram") else 1e-5
            np.testing.assert_allclose(
                ours[name], reference[name], rtol=2e-5, atol=tolerance, err_msg=f"{name}, step {step}"
            )


@pytest.mark.slow
@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "mcl"])  # it is among those below
def test_losses_and_metrics_do_not_depend_on_the_number_of_microbatches(family):
    check_same(windows(family, 4), windows(family, 1))


# Microbatches with and without data shards (`make_accumulation`). With a row on each of eight shards there is
# nothing to divide into microbatches.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "num_microbatches", "sizes"),
    [
        ("mcl", 4, (2, 1, 1)),
        ("electra with modernbert", 2, (2, 2, 2)),
        ("electra with modernbert", 1, (2, 4, 1)),
    ],
)
def test_losses_and_metrics_do_not_depend_on_mesh_and_number_of_microbatches_together(
    family, num_microbatches, sizes
):
    check_same(windows(family, num_microbatches, sizes), windows(family, 1))


def test_the_noise_matters():
    family = "mlm with relative bias"
    one, other = (windows(family, 1, **changes)[0] for changes in ({}, {"hidden_dropout": 0.0}))
    assert other["gradient_norm"] / one["gradient_norm"] == pytest.approx(0.903, abs=0.01)
