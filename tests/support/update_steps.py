"""Steps of the update rules on a few small parameters, alone and on a mesh, and Adam's numbers by NumPy."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict

from electra_jax.distributed.mesh import make_mesh
from electra_jax.distributed.sharding import axis_context, batch_sharding
from electra_jax.objectives.base import Objective, Phase
from electra_jax.training.checkpointing import Checkpointer
from electra_jax.training.optimizer import make_optimizers
from electra_jax.training.program import make_program
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


def check_resumes(name, tmp_path):
    """Fails if a run of four steps differs from one that is resumed from a checkpoint of its second."""
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
