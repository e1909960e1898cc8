"""The update rules of config.optimizer.name: against NumPy, Optax and PyTorch, on a mesh, in checkpoints."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import NamedSharding, PartitionSpec

from electra_jax.configuration.checks import check_trust_ratios, check_weight_decay
from electra_jax.distributed.mesh import make_mesh
from electra_jax.training.optimizer import make_optimizers
from electra_jax.training.parameter_table import parameter_table
from electra_jax.training.update_rules import LAMB, MUON, STABLE_ADAMW
from support.programs import HIGHEST, Product, products
from support.update_steps import (
    DECAY,
    MATRICES,
    PEAK,
    PHASE,
    SHAPES,
    STEPS,
    by_numpy,
    check_resumes,
    equal,
    flat_params,
    grads_of,
    multipliers,
    run,
    section,
    train,
    tree,
)


def test_adamw_against_torch():
    params = {path: torch.nn.Parameter(torch.tensor(value)) for path, value in flat_params().items()}
    groups = [
        {"params": [param], "lr": multipliers(path)[0], "weight_decay": multipliers(path)[1]}
        for path, param in params.items()
    ]
    theirs = torch.optim.AdamW(groups, betas=(0.9, 0.999), eps=1e-6)
    for step in range(STEPS):
        for path, grad in grads_of(step).items():
            params[path].grad = torch.tensor(grad)
        theirs.step()
    equal(train(section("adamw")), {path: param.detach().numpy() for path, param in params.items()})


@pytest.mark.parametrize("follows", ["rate", "schedule"])
@pytest.mark.parametrize("clip", [1.0, 1.5])
def test_stable_adamw_against_numpy(follows, clip):
    factors = []

    def update(path, param, grad, direction, second):
        factors.append(max(1.0, np.sqrt((grad**2 / np.maximum(second, 1e-12)).mean()) / clip))
        rate, decay = multipliers(path)
        shrunk = decay * param * (rate if follows == "rate" else 1.0)
        return (rate * direction + shrunk) / factors[-1]

    expected = by_numpy(update)
    assert max(factors) > 1.1 and min(factors) < 1.01
    equal(train(section(STABLE_ADAMW, weight_decay_follows=follows, update_clip=clip)), expected)


def test_weight_decay_that_follows_the_schedule_does_not_depend_on_the_peak():
    falling = {"schedule": "warmup_constant_linear", "decay_share": 1.0}
    still = lambda step: {path: np.zeros_like(value) for path, value in flat_params().items()}
    share = np.prod([1 - DECAY * (1 - step / 10) for step in range(STEPS)])
    for peak in (1e-2, 1e-5):
        ours = train(section("adamw", weight_decay_follows="schedule", learning_rate=peak, **falling), still)
        kept = {path: value * (1.0 if "bias" in path else share) for path, value in flat_params().items()}
        equal(ours, kept)


@pytest.mark.parametrize("follows", ["rate", "schedule"])
def test_a_group_without_a_learning_rate_stays_as_it_is(follows):
    changes = {
        "groups": (("table", 0.0, 1.0), ("head", 0.1, 1.0), (".*", 1.0, 1.0)),
        "weight_decay_follows": follows,
    }
    still = lambda step: {path: np.zeros_like(value) for path, value in flat_params().items()}
    # With `schedule` the multiplier of a rate does not scale the decay, unless it is 0.
    tenth, whole = (0.1 * PEAK, PEAK) if follows == "rate" else (1.0, 1.0)
    share = lambda path: 0.0 if "table" in path else tenth if "head" in path else whole
    expected = {path: value * (1 - DECAY * share(path)) ** STEPS for path, value in flat_params().items()}
    ours = train(section("adamw", **changes), still)
    equal(ours, expected)
    np.testing.assert_array_equal(ours["encoder/table"], flat_params()["encoder/table"])


def test_lamb_against_numpy_and_optax():
    def update(path, param, grad, direction, second):
        rate, decay = multipliers(path)
        step = direction + decay * param
        # Without weight decay there is no adaptation, as in the paper's code.
        return rate * step * (1.0 if decay == 0 else np.linalg.norm(param) / np.linalg.norm(step))

    equal(train(section("lamb")), by_numpy(update))
    plain = optax.lamb(PEAK, eps=1e-6, weight_decay=DECAY)
    params = tree(flat_params())
    state = plain.init(params)
    for step in range(STEPS):
        updates, state = plain.update(tree(grads_of(step)), state, params)
        params = optax.apply_updates(params, updates)
    equal(train(section("lamb", groups=((".*", 1.0, 1.0),))), flatten_dict(params, sep="/"))


def test_lamb_refuses_a_weight_decay_that_follows_the_schedule():
    with pytest.raises(ValueError, match=r"^config\.optimizer\.weight_decay_follows: got 'schedule' with"):
        check_weight_decay(section("lamb", weight_decay_follows="schedule"))
    check_weight_decay(section("adamw", weight_decay_follows="schedule"))


def test_lamb_refuses_tables_that_begin_at_zero():
    lamb = {"name": "lamb"}
    sections = lambda sharing, objective: {
        "model": {"embedding_sharing": sharing},
        "objective": {"name": objective, "generator": "model"},
        "optimizer": lamb,
    }
    with pytest.raises(ValueError, match=r"^config\.model\.embedding_sharing: got 'gdes' with config\.opt"):
        check_trust_ratios(sections("gdes", "deberta_v3"))
    check_trust_ratios(sections("tied", "deberta_v3"))
    check_trust_ratios(sections("gdes", "mlm"))  # which has no discriminator
    lamb["name"] = "adamw"
    check_trust_ratios(sections("gdes", "deberta_v3"))


def newton_schulz(matrix):
    """Five quintic iterations of Jordan's, on the wide form."""
    x = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x = x / (np.linalg.norm(x) + 1e-8)
    for _ in range(5):
        square = x @ x.T
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return x.T if matrix.shape[0] > matrix.shape[1] else x


@pytest.mark.parametrize("rms", [0.2, 0.0])
def test_muon_against_numpy_for_matrices_of_layers_and_adam_for_the_rest(rms):
    momentum = {path: 0.0 for path in MATRICES}
    number = {path: 0 for path in MATRICES}

    def update(path, param, grad, direction, second):
        rate, decay = multipliers(path)
        if path in MATRICES:
            number[path] += 1
            momentum[path] = 0.95 * momentum[path] + 0.05 * grad
            corrected = 0.95 * momentum[path] / (1 - 0.95 ** (number[path] + 1))
            corrected = corrected + 0.05 * grad / (1 - 0.95 ** number[path])
            matrix = corrected.reshape(len(corrected), -1)
            size = rms * max(matrix.shape) ** 0.5 if rms else max(1, matrix.shape[1] / matrix.shape[0]) ** 0.5
            direction = size * newton_schulz(matrix).reshape(grad.shape)
            singular = np.linalg.svd(direction.reshape(matrix.shape) / size, compute_uv=False)
            assert (singular > 0.5).all() and (singular < 1.3).all()
        return rate * (direction + decay * param)

    expected = by_numpy(update)
    equal(train(section("muon", muon_rms=rms)), expected, rtol=1e-3)


def test_muon_on_plain_matrices_equals_optax():
    plain = optax.contrib.muon(PEAK, weight_decay=DECAY, consistent_rms=0.2)
    path = MATRICES[0]
    param = jnp.asarray(flat_params()[path])
    state = plain.init(param)
    for step in range(STEPS):
        updates, state = plain.update(jnp.asarray(grads_of(step)[path]), state, param)
        param = optax.apply_updates(param, updates)
    np.testing.assert_allclose(train(section("muon"))[path], param, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [("float32", HIGHEST), ("bfloat16", Product(("f32", "f32"), ("DEFAULT", "DEFAULT")))],
)
def test_products_of_muon_have_the_precision_of_the_model(dtype, expected):
    params = tree(flat_params())
    optimizers, _ = make_optimizers(section("muon"), 10, params, (PHASE,), dtype=dtype)
    state = jax.eval_shape(optimizers["all"].init, params)
    with jax.default_matmul_precision("tensorfloat32"):
        found = products(jax.jit(optimizers["all"].update).lower(params, state, params).as_text())
    assert len(found) == 2 * 3 and set(found) == {expected}  # in a loop of five iterations


@pytest.mark.parametrize("name", [STABLE_ADAMW, LAMB, MUON])
def test_updates_on_a_mesh_are_those_of_one_device_and_moments_are_sharded_like_their_parameters(name):
    _, expected = run(name, (1, 1, 1), 3)
    program, state = run(name, (2, 2, 2), 3)
    for ours, theirs in zip(*(jax.tree.leaves(one.params) for one in (state, expected)), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    specs = {path: leaf.sharding.spec for path, leaf in flatten_dict(state.params, sep="/").items()}
    found = {path: 0 for path in SHAPES}
    for place, leaf in jax.tree_util.tree_leaves_with_path(state.opt_state):
        name_of = jax.tree_util.keystr(place, simple=True, separator="/")
        for path, (shape, _) in SHAPES.items():
            if name_of.endswith(path):
                assert leaf.shape == shape and leaf.sharding.spec == specs[path]
                found[path] += 1
    both = {path: 1 if name == "muon" and path in MATRICES else 2 for path in SHAPES}
    assert found == both  # Muon has one moment of a matrix
    assert jax.tree.map(lambda leaf: leaf.shape, program.abstract_state.opt_state) == jax.tree.map(
        lambda leaf: leaf.shape, state.opt_state
    )


def test_a_run_with_muon_resumes_bit_for_bit(tmp_path):
    check_resumes(MUON, tmp_path)


def test_the_table_of_parameters_says_which_rule_trains_each():
    mesh = make_mesh({"data": 1, "fsdp": 1, "tensor": 1}, jax.devices()[:1])
    shapes = {
        path: jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, PartitionSpec()))
        for path, (shape, _) in SHAPES.items()
    }
    axes = unflatten_dict({path: PartitionSpec(*axes) for path, (_, axes) in SHAPES.items()}, sep="/")
    lines = parameter_table(unflatten_dict(shapes, sep="/"), axes, section("muon"), ("head",))
    rules = {line.split()[0]: line.split()[-1] for line in lines[1:-1]}
    assert rules == {path: "muon" if path in MATRICES else "adamw" for path in SHAPES} | {"head/kernel": "-"}
    assert "rule" not in parameter_table(unflatten_dict(shapes, sep="/"), axes, section("adamw"))[0]
    frozen = section("adamw", groups=(("table", 0.0, 1.0), (".*", 1.0, 1.0)))
    lines = parameter_table(unflatten_dict(shapes, sep="/"), axes, frozen)
    assert {line.split()[0]: tuple(line.split()[-2:]) for line in lines[1:-1]} == {
        path: ("0", "0") if "table" in path else ("1", "0.1") for path in SHAPES
    }
