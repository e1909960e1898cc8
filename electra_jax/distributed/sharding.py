"""The sharding table, LOGICAL_AXIS_RULES, which maps logical axes to mesh axes, and the shardings of states
and batches that follow from it."""

import contextlib
import math
from typing import Any

import jax
import optax
from flax import linen as nn
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

# Every logical axis that a model may name. A name that is missing here is an error, never silent replication.
BATCH_AXES = ("data", "fsdp")
LOGICAL_AXIS_RULES = (
    ("batch", BATCH_AXES),
    ("looked_up", "data"),  # rows of a batch just looked up in a table that is cut by fsdp
    ("length", None),
    ("embed", "fsdp"),  # hidden_size of kernels
    ("embedding", "fsdp"),  # embedding_size of the tables
    ("heads", "tensor"),
    ("kv", None),
    ("mlp", "tensor"),
    ("vocab", "tensor"),
    ("position", None),
    ("token_type", None),
    ("relpos", None),  # rows of the relative table
    ("tap", None),  # of a convolution
    ("label", None),
)

MAX_SHOWN = 8  # parameters that an error names


class UnevenShardsError(ValueError):
    """The sizes of the mesh do not divide the parameters of the model."""


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Sharding of [B, …] arrays: rows over data and fsdp."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """Sharding of scalars and metric sums."""
    return NamedSharding(mesh, PartitionSpec())


def put_whole(tree: Any, sharding: NamedSharding) -> Any:
    """Arrays of the host on the devices. Every process has the whole arrays, with the same values, and puts
    its part of them."""
    if sharding.is_fully_addressable:
        return jax.device_put(tree, sharding)
    return jax.tree.map(
        lambda leaf: jax.make_array_from_callback(leaf.shape, sharding, lambda index: leaf[index]),
        jax.device_get(tree),
    )


def get_whole(tree: Any) -> Any:
    """The whole arrays on the host, in every process; all of them must call it."""
    return multihost_utils.process_allgather(tree, tiled=True)


def param_shardings(params: Any, logical_axes: Any, mesh: Mesh) -> Any:
    """Sharding of every parameter.

    Raises:
      ValueError: an unknown logical axis.
      UnevenShardsError: dimensions that their mesh axes do not divide; names the first.
    """
    rules = dict(LOGICAL_AXIS_RULES)
    problems = []

    def shard(path, shape, axes):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        spec = []
        for size, axis in zip(shape.shape, axes, strict=True):
            if axis not in rules:
                raise ValueError(
                    f"parameter {name}: logical axis {axis!r} is not in LOGICAL_AXIS_RULES ({sorted(rules)})."
                )
            mesh_axis = rules[axis]
            if mesh_axis is not None and mesh_axis in spec:
                mesh_axis = None  # a mesh axis can cut an array once
            if mesh_axis is not None and size % mesh.shape[mesh_axis]:
                problems.append(
                    f"  {name}: axis {axis!r} has {size} entries, "
                    f"config.mesh.{mesh_axis}={mesh.shape[mesh_axis]} does not divide it"
                )
            spec.append(mesh_axis)
        return NamedSharding(mesh, PartitionSpec(*spec))

    shardings = jax.tree_util.tree_map_with_path(shard, params, logical_axes)
    if problems:
        raise UnevenShardsError(
            "config.mesh does not fit the model. Choose sizes that divide these axes, or change the model:\n"
            + "\n".join(problems[:MAX_SHOWN])
            + (f"\n  … and {len(problems) - MAX_SHOWN} more" if len(problems) > MAX_SHOWN else "")
        )
    return shardings


def state_shardings(
    abstract_state: Any,
    shardings_of_params: Any,
    optimizers: dict[str, optax.GradientTransformation],
    trains: dict[str, tuple[str, ...]],
    mesh: Mesh,
) -> Any:
    """Shardings of a whole TrainState: moments and moving average are sharded like their parameters, all else
    is replicated, also sums of rows and columns. `trains` names the top-level modules of each optimizer."""
    rest = jax.tree.map(lambda _: replicated(mesh), abstract_state)
    opt_state = {
        name: optax.tree_map_params(
            optimizer,
            lambda leaf, param, sharding: _moment_sharding(leaf, param, sharding, mesh),
            abstract_state.opt_state[name],
            {module: abstract_state.params[module] for module in trains[name]},
            {module: shardings_of_params[module] for module in trains[name]},
            transform_non_params=lambda _: replicated(mesh),
            is_leaf=lambda leaf: isinstance(leaf, optax.MaskedNode),
        )
        for name, optimizer in optimizers.items()
    }
    average = {}
    if hasattr(abstract_state, "ema"):
        average["ema"] = {name: shardings_of_params[name] for name in abstract_state.ema}
    return rest.replace(params=shardings_of_params, opt_state=opt_state, **average)


def _moment_sharding(leaf: Any, param: Any, sharding: NamedSharding, mesh: Mesh) -> Any:
    """The sharding of what an optimizer keeps for a parameter."""
    # `optax.masked` puts a MaskedNode in place of each parameter that it leaves out.
    if isinstance(leaf, optax.MaskedNode):
        return leaf
    return sharding if leaf.shape == param.shape else replicated(mesh)


def num_data_shards(mesh: Mesh) -> int:
    """Number of parts into which the mesh cuts the rows of a batch."""
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def check_batch(batch_size: int, num_microbatches: int, mesh: Mesh) -> None:
    """Raises ValueError when the global batch cannot be cut into data shards and microbatches."""
    if num_microbatches < 1 or batch_size % (num_data_shards(mesh) * num_microbatches):
        raise ValueError(
            f"config.train.batch_size: got {batch_size}, expected a multiple of mesh.data·mesh.fsdp·"
            f"train.num_microbatches = {mesh.shape['data']}·{mesh.shape['fsdp']}·{num_microbatches}."
        )


@contextlib.contextmanager
def axis_context(mesh: Mesh):
    """Context in which the models' logical constraints take effect: outside it they are silent no-ops."""
    with jax.set_mesh(mesh), nn.logical_axis_rules(LOGICAL_AXIS_RULES):
        yield


def data_shard_context():
    """Context, within `axis_context`, for work on one data shard of the batch: its rows are not cut further,
    so data and fsdp cut nothing in it."""
    return nn.logical_axis_rules(
        tuple((name, axis if axis == "tensor" else None) for name, axis in LOGICAL_AXIS_RULES)
    )
