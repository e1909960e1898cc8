"""MCL as a whole: it is ELECTRA if only ELECTRA's losses have weight; courses in one pass equal each alone;
microbatches, FLOPs, and a step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from electra_jax.distributed.mesh import make_mesh
from electra_jax.distributed.sharding import axis_context, batch_sharding
from electra_jax.models.config import encoder_shape
from electra_jax.objectives.course_losses import Courses
from electra_jax.objectives.course_weights import only_courses
from electra_jax.objectives.mcl import HEADS, mcl_flops
from electra_jax.objectives.registry import forward_flops, make_objective
from electra_jax.planning.compiled import matmul_flops
from electra_jax.training import program
from electra_jax.training.metrics import summarize
from support.commands import run_python
from support.paths import ROOT
from support.tiny import LENGTH, SPECIAL, key, mcl, mcl_arguments, model_section, rows
from support.training_steps import config, plain_descent, run_steps

NONE = only_courses()
ONE = {"data": 1, "fsdp": 1, "tensor": 1}
MODEL = model_section(
    generator=encoder_shape(16, 1) | {"num_heads": 2}, discriminator=encoder_shape(32, 1) | {"num_heads": 4}
)


@pytest.mark.slow
def test_without_the_other_courses_it_is_electra_bit_for_bit(monkeypatch):
    monkeypatch.setattr(program, "make_optimizers", plain_descent())
    full = config(model={"discriminator": MODEL["discriminator"]})  # with dropout
    mesh = make_mesh(ONE, jax.devices()[:1])
    _, electra_state, electra_windows = run_steps(full, mesh, 3)
    _, state, windows = run_steps(
        full, mesh, 3, make=lambda model, **objective: mcl(model, **objective | NONE)
    )
    ours = {name: module for name, module in state.params.items() if name not in HEADS}
    jax.tree.map(np.testing.assert_array_equal, ours, electra_state.params)
    for mine, theirs in zip(windows, electra_windows, strict=True):
        assert set(theirs) <= set(mine)
        jax.tree.map(np.testing.assert_array_equal, {name: mine[name] for name in theirs}, theirs)


@pytest.fixture(scope="module")
def params():
    return jax.jit(lambda: nn.meta.unbox(mcl(MODEL).init(key(), LENGTH)))()


def evaluated(objective, params):
    """(batch, normalizers, (loss, sums) of rows without dropout)."""
    batch = jax.jit(objective.prepare)(
        key(1), rows(8)
    )  # jitted as a whole, or every operation would be compiled separately
    normalizers = objective.normalizers(batch)
    value, (sums, _) = jax.jit(objective.phases[0].loss)(params, batch, normalizers, None, None)
    return batch, normalizers, (value, jax.device_get(sums))


@pytest.fixture(scope="module")
def together(params):
    """All courses."""
    return evaluated(mcl(MODEL), params)


def test_courses_in_one_pass_are_what_each_is_alone(params, together):
    _, _, (_, sums) = together
    swaps, prefixes = (
        {"std_weight": 5.0, "slm_weight": 1.0, "re_slm_weight": 1.0},
        ("std", "slm", "re_slm", "rtd", "mlm"),
    )
    for weights, compared in ((swaps, prefixes), ({"itd_weight": 5.0}, ("itd", "rtd", "mlm"))):
        _, _, (_, alone) = evaluated(mcl(MODEL, **NONE | weights), params)
        names = [name for name in alone if name.startswith(compared)]
        assert len(names) > 10
        for name in names:
            np.testing.assert_allclose(alone[name], sums[name], rtol=1e-5, atol=1e-5, err_msg=name)


def test_losses_of_microbatches_add_up(params, together):
    batch, normalizers, (whole, sums) = together
    loss = jax.jit(mcl(MODEL).phases[0].loss)
    parts = [
        loss(params, jax.tree.map(lambda x, i=i: x[i : i + 4], batch), normalizers, None, None)
        for i in (0, 4)
    ]
    np.testing.assert_allclose(whole, sum(value for value, _ in parts), rtol=1e-5)
    for name, value in sums.items():
        np.testing.assert_allclose(
            value, sum(part[name] for _, (part, _) in parts), rtol=1e-4, atol=1e-4, err_msg=name
        )


def test_every_course_trains_what_it_should(params, together):
    """The generator or the discriminator, through one head."""
    batch, normalizers, _ = together
    courses = Courses(*mcl_arguments(MODEL))
    objective = dict(courses.objective)

    @jax.jit
    def gradient(weights):
        courses.objective = objective | weights  # the computed courses are fixed: one program for all
        return jax.grad(lambda params: courses.loss(params, batch, normalizers, None, None)[0])(params)

    def trained(name):
        weights = dict.fromkeys(("gen_weight", "disc_weight", *NONE), 0.0) | {f"{name}_weight": 1.0}
        return {
            name
            for name, tree in gradient(weights).items()
            if any(leaf.any() for leaf in jax.tree.leaves(tree))
        }

    generator = {"embeddings", "generator", "generator_predictions"}
    assert all(trained(name) == generator for name in ("gen", "slm", "re_mlm", "re_slm"))
    for names, head in (
        (("disc", "re_rtd"), "discriminator_predictions"),
        (("std", "re_std"), HEADS[0]),
        (("itd",), HEADS[1]),
    ):
        assert all(trained(name) == {"embeddings", "discriminator", head} for name in names)


@pytest.mark.parametrize("weights", [NONE, {}, NONE | {"itd_weight": 5.0, "re_rtd_weight": 5.0}])
def test_model_flops_are_the_products_of_the_program(weights):
    arguments = mcl_arguments(**weights)
    objective = mcl(**weights)
    ids = jax.ShapeDtypeStruct((8, LENGTH), jnp.int32)
    params = jax.eval_shape(lambda: nn.meta.unbox(objective.init(key(), LENGTH)))

    def loss(params, ids):
        batch = objective.prepare(key(1), ids)
        return objective.phases[0].loss(params, batch, objective.normalizers(batch), None, None)[0]

    counted = matmul_flops(jax.make_jaxpr(loss)(params, ids).jaxpr)
    # They differ because the number of slots per row is rounded to an integer.
    assert counted == pytest.approx(8 * LENGTH * mcl_flops(arguments[0], LENGTH, arguments[1]), rel=0.02)


def test_losses_are_the_same_on_a_mesh(params, together):
    """Stacking courses moves no row to another device."""
    batch, normalizers, (value, sums) = together
    mesh = make_mesh({"data": 2, "fsdp": 2, "tensor": 2})
    objective = mcl(MODEL)
    with axis_context(mesh):
        abstract = program.make_program(
            config(objective=mcl_arguments()[1], model=MODEL), objective, mesh
        ).abstract_state.params
        params = jax.tree.map(lambda leaf, like: jax.device_put(leaf, like.sharding), params, abstract)
        batch = jax.device_put(batch, batch_sharding(mesh))
        cut, (more, _) = jax.jit(objective.phases[0].loss)(params, batch, normalizers, None, None)
    np.testing.assert_allclose(cut, value, rtol=1e-5)
    for name, expected in sums.items():
        np.testing.assert_allclose(more[name], expected, rtol=1e-4, atol=1e-4, err_msg=name)


TRACED = """
import hashlib, jax, jax.numpy as jnp
from flax import linen as nn
from support.tiny import LENGTH, key, mcl
objective = mcl()
params = jax.eval_shape(lambda: nn.meta.unbox(objective.init(key(), LENGTH)))
def loss(params, ids):
    batch = objective.prepare(key(1), ids)
    return objective.phases[0].loss(params, batch, objective.normalizers(batch), None, None)
program = jax.make_jaxpr(loss)(params, jnp.ones((8, LENGTH), jnp.int32))
print(hashlib.sha256(str(program).encode()).hexdigest())
"""


@pytest.mark.slow
def test_every_process_traces_the_same_program(environment):
    """Each process hashes strings differently, and the order of a set depends on that."""
    environment = environment | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    outcomes = [
        run_python("-c", TRACED, environment=environment | {"PYTHONHASHSEED": str(seed)}) for seed in range(4)
    ]
    programs = {outcome.stdout for outcome in outcomes}
    assert len(programs) == 1 and len(programs.pop()) == 65, outcomes


def test_every_course_is_reported(together):
    _, _, (_, sums) = together
    numbers = summarize(sums)
    assert numbers.keys() >= {
        "mlm_loss",
        "slm_accuracy",
        "std_auc",
        "itd_auc",
        "re_mlm_loss",
        "re_std_rate",
        "inserted_rate",
    }
    assert numbers["re_slm_loss"] == pytest.approx(sums["re_slm_loss_sum"] / sums["re_slm_weight"])
    found = sums["std_true_positive"]  # ordinary tokens alone, since only those are swapped
    assert numbers["re_slm_rate"] == pytest.approx(found / sums["tokens"])
    assert numbers["swapped_rate"] == pytest.approx((found + sums["std_false_negative"]) / sums["tokens"])


def test_the_registry_has_its_row():
    model, objective, _ = mcl_arguments()
    config = {"objective": objective, "data": {"sequence_length": LENGTH}}
    assert make_objective(config, model, SPECIAL).phases[0].trains == (
        "embeddings",
        "generator",
        "generator_predictions",
        "discriminator",
        "discriminator_predictions",
        *HEADS,
    )
    assert forward_flops(config, model) == mcl_flops(model, LENGTH, objective)
