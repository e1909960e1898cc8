"""Disentangled attention in a GPU's kernels, interpreted, compared with the plain form."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from electra_jax.distributed.mesh import make_mesh
from electra_jax.distributed.sharding import axis_context, batch_sharding
from electra_jax.models.gpu.disentangled import spans
from electra_jax.models.gpu.tiles import Plan, by_distance_to_keys, by_distance_to_queries, by_key, by_query
from electra_jax.planning.compiled import matmul_flops
from support import attention_cases
from support.attention_cases import (
    Case,
    assert_close,
    check_traced_program,
    compare,
    equations,
    make_encoder_config,
)
from support.tiny import key

H100 = ("NVIDIA H100 80GB HBM3", "gpu")


@pytest.fixture
def interpreted(monkeypatch):
    """A GPU's kernels on this CPU."""
    monkeypatch.setattr("electra_jax.models.disentangled_attention.kernels_platform", lambda: "gpu")


@pytest.mark.parametrize(
    ("heads", "head_size", "num_rows", "length"),
    # Several heads, and several rows in a part of the tables' kernel; a padded length; many tiles.
    [(2, 64, 3, 128), (1, 32, 1, 200), (1, 32, 1, 512), (1, 128, 1, 1024)],
)
def test_value_and_gradients_are_those_of_the_plain_form(
    heads, head_size, num_rows, length, interpreted, monkeypatch
):
    monkeypatch.setattr("electra_jax.models.gpu.backward.ENOUGH_PROGRAMS", 20)
    compare(Case(make_encoder_config(heads, head_size), num_rows, length))


def test_in_bfloat16_they_differ_by_rounding(interpreted):
    """Tiles are larger there."""
    compare(Case(make_encoder_config(1, 64, dtype="bfloat16", dropout=0.0), 2, 100), 0.02)


def test_on_a_mesh_each_shard_computes_its_rows_and_heads(interpreted):
    case = Case(make_encoder_config(4, 32), 4, 24)
    expected = jax.jit(functools.partial(case.gradients, "plain"))(*case.arguments)
    mesh = make_mesh({"data": 1, "fsdp": 2, "tensor": 2}, jax.devices()[:4])
    with axis_context(mesh):
        rows = jax.device_put(case.arguments[2:], batch_sharding(mesh))
        function = jax.jit(functools.partial(case.gradients, "pallas"))
        assert_close(jax.device_get(function(*case.arguments[:2], *rows)), expected)


def test_gathers_in_a_tile_and_their_transposes():
    plan = Plan(32, 1, 64, 1.0, "float32", True)
    size, width = plan.tile, plan.window
    to_keys, from_keys = jax.random.normal(key(), (size, width)), jax.random.normal(key(1), (width, size))
    shifted, turned = by_key(plan, to_keys), by_query(plan, from_keys)
    for i, j in ((0, 0), (3, 5), (31, 0), (0, 31)):
        assert shifted[i, j] == to_keys[i, size + j - i] and turned[i, j] == from_keys[size + i - j, j]
    y = jax.random.normal(key(2), (size, size))
    for x, of_pairs, transpose in (
        (to_keys, shifted, by_distance_to_keys),
        (from_keys, turned, by_distance_to_queries),
    ):
        np.testing.assert_allclose((of_pairs * y).sum(), (x * transpose(plan, y)).sum(), rtol=1e-4)


@pytest.mark.parametrize("is_packed", [True, False])
def test_tiles_without_a_common_segment_are_left_out(is_packed):
    plan = Plan(160, 1, 64, 1.0, "float32", True)
    row = np.repeat([1, 2, 3, 0], [40, 56, 40, 24])
    if not is_packed:  # padding and segments in any order
        row = np.random.default_rng(0).permutation(row)
    first, behind = np.asarray(spans(plan, jnp.asarray(row)[None]))[0]
    for tile in range(plan.num_tiles):
        own = row[tile * plan.tile : (tile + 1) * plan.tile]
        met = {place // plan.tile for place in np.flatnonzero(np.isin(row, own))}
        assert first[tile] <= min(met) and max(met) < behind[tile] <= plan.num_tiles
        assert not is_packed or (first[tile], behind[tile]) == (min(met), max(met) + 1)


@pytest.mark.parametrize(("dtype", "precision"), [("float32", "HIGHEST"), ("bfloat16", "DEFAULT")])
def test_no_array_has_all_scores_and_products_have_the_precision_of_the_dtype(dtype, precision, monkeypatch):
    attention_cases.trace_for(monkeypatch, *H100)
    case = Case(make_encoder_config(2, 64, dtype=dtype), 2, 512)
    check_traced_program(case, num_kernels=4, dtype=dtype, precision=precision)


def test_their_products_are_counted_as_if_every_token_attended_to_all(monkeypatch):
    """The lengths of their loops over tiles depend on the segments."""
    attention_cases.trace_for(monkeypatch, *H100)
    case, num_tiles = Case(make_encoder_config(2, 64), 3, 256), 256 // 32
    jaxpr = jax.make_jaxpr(functools.partial(case.gradients, "pallas"))(*case.arguments).jaxpr
    kernels = [one.params for one in equations(jaxpr) if one.primitive.name == "pallas_call"]
    for params in kernels:
        of_a_pair_of_tiles = matmul_flops(params["jaxpr"])
        assert params["cost_estimate"].flops == 3 * 2 * num_tiles**2 * of_a_pair_of_tiles
    others = matmul_flops(jaxpr) - sum(params["cost_estimate"].flops for params in kernels)
    assert len(kernels) == 4 and others > 0


@pytest.mark.filterwarnings("ignore:The Pallas Triton backend is deprecated")
def test_rows_that_are_mapped_one_by_one_lower_for_a_gpu(monkeypatch):
    """As the losses of single rows are computed: a kernel's arrays then have one more axis."""
    attention_cases.trace_for(monkeypatch, *H100)
    case = Case(make_encoder_config(2, 64, dtype="bfloat16"), 4, 128)
    split = lambda x: x[:, None]

    def of_rows(params, table, *rows):
        of_row = lambda *row: case.gradients("pallas", params, table, *row)
        return jax.vmap(of_row)(*jax.tree.map(split, rows))

    text = jax.jit(of_rows).trace(*case.arguments).lower(lowering_platforms=("cuda",)).as_text()
    assert text.count("@__gpu$xla.gpu.triton(") + text.count("@triton_kernel_call") == 4
