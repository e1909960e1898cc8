"""The update rules of config.optimizer.name: against NumPy, Optax and PyTorch, on a mesh, in checkpoints."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import NamedSharding, PartitionSpec

from electra_jax.configuration.checks import check_trust_ratios, check_weight_decay
from electra_jax.distributed.mesh import make_mesh
from electra_jax.distributed.sharding import axis_context, batch_sharding
from electra_jax.objectives.base import Objective, Phase
from electra_jax.training import update_rules
from electra_jax.training.checkpointing import Checkpointer
from electra_jax.training.optimizer import make_optimizers
from electra_jax.training.parameter_table import parameter_table
from electra_jax.training.program import make_program
from electra_jax.training.update_rules import ADAFACTOR, LAMB, MUON, STABLE_ADAMW
from support.programs import HIGHEST, Product, products
from support.tiny import rows
from support.training_steps import config

# Path: (shape, logical axes). Only the kernels of the layer are matrices of hidden layers.
SHAPES = {
    "encoder/layer_0/output/kernel": ((16, 8), ("mlp", "embed")),
    "encoder/layer_0/query/kernel": ((8, 2, 8), ("embed", "heads", "kv")),
    "encoder/layer_0/output/bias": ((8,), ("embed",)),
    "encoder/table": ((256, 8), ("vocab", "embed")),
    "head/kernel": ((8, 4), ("embed", "mlp")),
}
MATRICES = ("encoder/layer_0/output/kernel", "encoder/layer_0/query/kernel")
GROUPS = (("bias", 0.5, 0.0), (".*", 1.0, 1.0))
PHASE = Phase("all", ("encoder", "head"), None)
STEPS, PEAK, DECAY = 4, 1e-2, 0.1


def section(name, **changes):
    """config.optimizer with a constant rate, and clipping that does nothing."""
    values = {"name": name, "schedule": "warmup_constant", "warmup_steps": 0, "learning_rate": PEAK}
    return (
        config()["optimizer"] | values | {"clip_norm": 1e9, "weight_decay": DECAY, "groups": GROUPS} | changes
    )


def flat_params(seed=0, scale=1.0):
    source = np.random.default_rng(seed)
    draw = lambda shape: (scale * source.normal(size=shape)).astype(np.float32)
    return {path: draw(shape) for path, (shape, _) in SHAPES.items()}


def tree(flat):
    return unflatten_dict(jax.tree.map(jnp.asarray, flat), sep="/")


def grads_of(step):
    """The third gradients are far above the ones before."""
    return flat_params(100 + step, scale=30.0 if step == 2 else 0.1)


def train(optimizer, grads_of=grads_of, steps=STEPS):
    """Path → parameter after some updates with the section `optimizer`."""
    params = tree(flat_params())
    optimizers, _ = make_optimizers(optimizer, 10, params, (PHASE,))
    transformation = optimizers["all"]
    state = transformation.init(params)
    for step in range(steps):
        updates, state = transformation.update(tree(grads_of(step)), state, params)
        params = optax.apply_updates(params, updates)
    return flatten_dict(params, sep="/")


def equal(ours, expected, rtol=2e-5):
    assert ours.keys() == expected.keys()
    for path in ours:
        np.testing.assert_allclose(ours[path], expected[path], rtol=rtol, atol=2e-6, err_msg=path)


def adam_numbers():
    """The corrected direction of Adam and the second moment of each step, for every parameter."""
    moments = {path: [0.0, 0.0] for path in SHAPES}
    for step in range(STEPS):
        found = {}
        for path, grad in grads_of(step).items():
            grad = grad.astype(np.float64)
            m, v = moments[path] = [
                0.9 * moments[path][0] + 0.1 * grad,
                0.999 * moments[path][1] + 0.001 * grad**2,
            ]
            m, v = m / (1 - 0.9 ** (step + 1)), v / (1 - 0.999 ** (step + 1))
            found[path] = grad, m / (np.sqrt(v) + 1e-6), v
        yield found


def by_numpy(update):
    """Parameters after STEPS updates `update(path, parameter, gradient, direction, second moment)`."""
    params = {path: value.astype(np.float64) for path, value in flat_params().items()}
    for numbers in adam_numbers():
        for path, (grad, direction, second) in numbers.items():
            params[path] = params[path] - update(path, params[path], grad, direction, second)
    return params


def multipliers(path):
    """(learning rate, weight decay) of a parameter."""
    return (PEAK * 0.5, 0.0) if "bias" in path else (PEAK, DECAY)


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


@pytest.fixture
def factored_from_8(monkeypatch):
    """So that these small matrices are factored."""
    monkeypatch.setattr(update_rules, "FACTORED_FROM", 8)


@pytest.mark.usefixtures("factored_from_8")
def test_adafactor_against_numpy():
    """Rows and columns of g² are averaged; v is their outer product over the mean of all."""
    kept, average = {path: 0.0 for path in SHAPES}, {path: 0.0 for path in SHAPES}
    number = {path: 0 for path in SHAPES}

    def update(path, param, grad, direction, second):
        number[path] += 1
        beta = min(1 - number[path] ** -0.8, 0.4)  # from the second step on 0.4
        kept[path] = beta * kept[path] + (1 - beta) * (grad**2 + 1e-12)
        second = kept[path]
        if min(second.reshape(len(second), -1).shape) >= 8:
            second = second.reshape(len(second), -1)
            second = second.mean(1, keepdims=True) * second.mean(0) / second.mean()
        scaled = grad / np.sqrt(second.reshape(grad.shape))
        scaled = scaled / max(1, np.sqrt((scaled**2).mean()) / 0.9)
        average[path] = 0.9 * average[path] + 0.1 * scaled
        new, average[path] = average[path], np.asarray(jnp.bfloat16(average[path])).astype(np.float64)
        rate, decay = multipliers(path)
        return rate * (new + decay * param)

    expected = by_numpy(update)
    equal(train(section(ADAFACTOR, update_clip=0.9, beta2=0.4)), expected, rtol=1e-4)


@pytest.mark.usefixtures("factored_from_8")
@pytest.mark.parametrize("beta1", [0.9, 0.0])
def test_adafactor_on_matrices_equals_optax(beta1):
    plain = optax.adafactor(
        PEAK,
        min_dim_size_to_factor=8,
        multiply_by_parameter_scale=False,
        momentum=beta1 or None,
        dtype_momentum=jnp.bfloat16,
        eps=1e-12,
    )
    path = "encoder/table"
    param = jnp.asarray(flat_params()[path])
    state = plain.init(param)
    for step in range(STEPS):
        updates, state = plain.update(jnp.asarray(grads_of(step)[path]), state, param)
        param = optax.apply_updates(param, updates)
    ours = train(section(ADAFACTOR, beta1=beta1, weight_decay=0.0))[path]
    # Optax rounds the average after the rate has multiplied it.
    np.testing.assert_allclose(ours, param, rtol=0, atol=0.004 * PEAK * STEPS)
    assert np.abs(ours - flat_params()[path]).mean() > 0.1 * PEAK


def test_adafactor_keeps_a_quarter_of_the_bytes_of_adam():
    """Of the matrices of ELECTRA's small model, attention kernels included; nothing of them without beta1."""
    shapes = {
        "encoder/layer_0/query/kernel": (256, 4, 64),
        "encoder/layer_0/output/kernel": (1024, 256),
        "encoder/table": (30522, 128),
    }
    params = tree_of_shapes(shapes)
    num_weights = sum(np.prod(shape) for shape in shapes.values())

    def bytes_per_weight(**changes):
        optimizers, _ = make_optimizers(
            section(groups=((".*", 1.0, 1.0),), **changes), 10, params, (Phase("all", ("encoder",), None),)
        )
        state = jax.eval_shape(optimizers["all"].init, params)
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state)) / num_weights

    assert bytes_per_weight(name="adamw") == pytest.approx(8, abs=0.01)
    assert bytes_per_weight(name=ADAFACTOR) == pytest.approx(2, abs=0.05)
    assert bytes_per_weight(name=ADAFACTOR, beta1=0.0) == pytest.approx(0, abs=0.05)


def tree_of_shapes(shapes):
    return unflatten_dict(
        {path: jax.ShapeDtypeStruct(shape, jnp.float32) for path, shape in shapes.items()}, sep="/"
    )


def make_objective():
    """An objective that compiles at once and reaches every parameter."""

    def init(key, sequence_length):
        keys = dict(zip(SHAPES, jax.random.split(key, len(SHAPES)), strict=True))
        draw = lambda path, shape, axes: nn.Partitioned(0.1 * jax.random.normal(keys[path], shape), axes)
        return unflatten_dict({path: draw(path, *one) for path, one in SHAPES.items()}, sep="/")

    def loss(params, ids_BL, normalizers, dropout_key, carry):
        layer = params["encoder"]["layer_0"]
        x_BE = params["encoder"]["table"][ids_BL].mean(1)
        x_BHK = jnp.einsum("be,ehk->bhk", x_BE, layer["query"]["kernel"])
        x_BE = x_BHK.reshape(len(x_BE), -1) @ layer["output"]["kernel"] + layer["output"]["bias"][None]
        value = jnp.square(x_BE @ params["head"]["kernel"] - 1.0).mean()
        return value, ({"tokens": jnp.float32(ids_BL.size)}, carry)

    phases = (Phase("all", ("encoder", "head"), loss),)
    targets = lambda ids_BL: (ids_BL, jnp.ones_like(ids_BL))
    return Objective(init, lambda key, ids_BL: ids_BL, lambda batch: {}, phases, targets)


def run(name, sizes, steps, state=None, first=0):
    """(program, state) after some steps on a mesh."""
    mesh = make_mesh(
        dict(zip(("data", "fsdp", "tensor"), sizes, strict=True)), jax.devices()[: np.prod(sizes)]
    )
    full = config(optimizer=section(name, clip_norm=1.0))
    with axis_context(mesh):
        program = make_program(full, make_objective(), mesh)
        state = program.init() if state is None else state
        for step in range(first, first + steps):
            ids = jax.device_put(rows(8, seed=step), batch_sharding(mesh))
            state, _ = program.train_step(state, ids)
    return program, state


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


@pytest.mark.usefixtures("factored_from_8")
def test_adafactor_on_a_mesh_is_that_of_one_device():
    _, expected = run(ADAFACTOR, (1, 1, 1), 3)
    _, state = run(ADAFACTOR, (2, 2, 2), 3)
    for ours, theirs in zip(*(jax.tree.leaves(one.params) for one in (state, expected)), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    specs = {path: leaf.sharding.spec for path, leaf in flatten_dict(state.params, sep="/").items()}
    found = {path: [] for path in SHAPES}
    for place, leaf in jax.tree_util.tree_leaves_with_path(state.opt_state):
        for path in SHAPES:
            if jax.tree_util.keystr(place, simple=True, separator="/").endswith(path):
                found[path].append(leaf)
    for path, (shape, _) in SHAPES.items():
        whole = [leaf for leaf in found[path] if leaf.shape == shape]
        assert all(leaf.sharding.spec == specs[path] for leaf in whole)
        assert all(leaf.sharding.is_fully_replicated for leaf in found[path] if leaf.shape != shape)
        is_factored = path != "head/kernel" and len(shape) > 1  # which has fewer than eight columns
        assert len(whole) == (1 if is_factored else 2)


@pytest.mark.usefixtures("factored_from_8")
@pytest.mark.parametrize("name", [MUON, ADAFACTOR])
def test_a_run_resumes_bit_for_bit(tmp_path, name):
    sizes = (2, 2, 2)
    program, straight = run(name, sizes, 4)
    _, state = run(name, sizes, 2)
    with contextlib.closing(Checkpointer(str(tmp_path / "checkpoints"), keep=1)) as checkpointer:
        checkpointer.save(2, state, {})
        checkpointer.wait()
        restored = checkpointer.restore(2, program.abstract_state)
    _, resumed = run(name, sizes, 2, restored, first=2)
    for one, other in zip(*(jax.tree.leaves(each) for each in (straight, resumed)), strict=True):
        np.testing.assert_array_equal(one, other)


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
