"""ModernBERT's local attention in a TPU's kernels, interpreted, compared with its definition."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from electra_jax.distributed.mesh import make_mesh
from electra_jax.distributed.sharding import axis_context, batch_sharding
from electra_jax.models.attention_form import LONGEST_WINDOWED, SHORTEST_WINDOWED, uses_window_kernels
from electra_jax.models.local_attention import local_attention
from support import attention_cases
from support.attention_by_hand import by_hand, make_inputs
from support.attention_cases import assert_close
from support.jaxprs import sizes_of
from support.tiny import key


@pytest.fixture
def trace_for(monkeypatch):
    """Make the layer take itself to be traced for a device of this kind."""

    def choose(device_kind="TPU v5 lite", platform="tpu"):
        attention_cases.trace_for(monkeypatch, device_kind, platform)

    return choose


def make_arguments(inputs, heads=2, head_size=64, dtype="float32"):
    """Queries, keys and values; the gradient of the context, which is zero for padding; inputs."""
    shape = (*inputs.segments_BL.shape, heads, head_size)
    arrays = jax.random.normal(key(4), (4, *shape)) * jnp.array([head_size**-0.5, 1, 1, 1]).reshape(
        4, 1, 1, 1, 1
    )
    *arrays, target = (x.astype(dtype) for x in arrays)
    return arrays, target * (inputs.segments_BL > 0)[:, :, None, None], inputs


def gradients(attention, arrays, target, inputs):
    """The context without padding, and all gradients."""
    context, pull_back = jax.vjp(lambda *arrays: attention(arrays, inputs), *arrays)
    return context * (inputs.segments_BL > 0)[:, :, None, None].astype(context.dtype), *pull_back(target)


def in_kernels(reach, arrays, inputs):
    return local_attention(1.0, str(arrays[0].dtype), reach, arrays, inputs, None, "pallas")


# A tile; a padded length; three tiles of 128; tiles of 256, the second of two documents.
@pytest.mark.parametrize(
    ("lengths", "total", "reach", "heads", "head_size"),
    [
        ((128,), 128, 64, 2, 64),
        ((60, 1, 100), 200, 8, 3, 64),
        ((129, 200), 384, 128, 1, 128),
        ((1, 300, 700), 1024, 64, 2, 32),
        ((640,), 640, 65, 2, 64),
    ],
    ids=[
        "one tile",
        "packed and padded",
        "the longest reach",
        "tiles of 256",
        "a reach above half a register",
    ],
)
def test_value_and_gradients_are_those_of_masked_attention(lengths, total, reach, heads, head_size):
    arguments = make_arguments(make_inputs(lengths, total), heads, head_size)
    got, expected = (
        jax.jit(functools.partial(gradients, functools.partial(form, reach)))(*arguments)
        for form in (in_kernels, by_hand)
    )
    assert_close(got, expected)


def test_bfloat16_agrees_with_the_plain_form():
    """Both round the weights and the gradients of the scores, at slightly different places."""
    plain = lambda reach, arrays, inputs: local_attention(1.0, "bfloat16", reach, arrays, inputs, None)
    arguments = make_arguments(make_inputs((1, 300, 200), 512), dtype="bfloat16")
    got, expected = (
        jax.jit(functools.partial(gradients, functools.partial(form, 64)))(*arguments)
        for form in (in_kernels, plain)
    )
    for one, two in zip(got, expected, strict=True):
        one, two = (np.asarray(x, np.float32) for x in (one, two))
        assert np.abs(one - two).max() <= 0.02 * np.abs(two).max()


def test_a_row_of_padding_alone_is_finite():
    arrays, _, inputs = make_arguments(make_inputs((), 100))
    context, pull_back = jax.vjp(lambda *arrays: in_kernels(8, arrays, inputs), *arrays)
    assert all(np.isfinite(x).all() for x in (context, *pull_back(context)))


def test_on_a_mesh_each_shard_computes_its_rows_and_heads():
    inputs = jax.tree.map(lambda x: jnp.concatenate([x, x]), make_inputs((10, 9), 24))
    arguments = make_arguments(inputs)
    compute = functools.partial(gradients, functools.partial(in_kernels, 5))
    expected = jax.jit(compute)(*arguments)
    mesh = make_mesh({"data": 1, "fsdp": 2, "tensor": 2}, jax.devices()[:4])
    with axis_context(mesh):
        rows = jax.device_put(arguments, batch_sharding(mesh))
        assert_close(jax.device_get(jax.jit(compute)(*rows)), expected)


def test_nothing_outside_the_kernels_grows_with_the_square_of_the_length(trace_for):
    trace_for()

    def traced(length):
        arguments = make_arguments(make_inputs((length,), length, num_rows=1), dtype="bfloat16")
        return jax.jit(functools.partial(gradients, functools.partial(in_kernels, 64))).trace(*arguments)

    # The largest are queries, keys and values.
    assert max(sizes_of(traced(4096).jaxpr.jaxpr)) == 4096 * 2 * 64
    assert traced(1024).lower(lowering_platforms=("tpu",)).as_text().count("tpu_custom_call") == 2


class TestChoice:
    """Which form runs."""

    shape = (8, 2048, 2, 64)

    def choose(self, wanted, shape=shape, keep_prob=1.0, reach=64, is_directed=False):
        return uses_window_kernels(wanted, keep_prob, reach, shape, is_directed=is_directed)

    def test_they_run_on_tpus_in_long_rows(self, trace_for):
        trace_for()
        assert self.choose("auto")
        assert self.choose("auto", (8, SHORTEST_WINDOWED, 2, 64))
        assert not self.choose("auto", (8, SHORTEST_WINDOWED - 1, 2, 64))
        assert self.choose("pallas", (8, 20, 2, 64))
        assert not self.choose("plain")

    @pytest.mark.parametrize(
        ("kind", "platform"), [("TPU v4", "tpu"), ("NVIDIA H100 80GB HBM3", "gpu")], ids=["v4", "H100"]
    )
    def test_other_devices_do_without_them(self, kind, platform, trace_for):
        trace_for(kind, platform)
        assert not self.choose("auto")
        with pytest.raises(ValueError, match=rf"need a TPU v5e, v5p or v6e \(this device is a {kind}\)"):
            self.choose("pallas")

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"is_directed": True}, "attend in both directions"),
            ({"keep_prob": 0.9}, r"need config\.model\.attention_dropout=0 \(here 0\.1\)"),
            ({"shape": (8, 2048, 2, 48)}, r"need heads of 32, 64 or 128 features \(these have 48\)"),
            ({"reach": 129}, r"need config\.model\.rotary\.window of at most 256 \(here 258\)"),
            ({"shape": (8, LONGEST_WINDOWED + 1, 2, 64)}, r"need rows of at most 8192 tokens"),
        ],
        ids=["directed", "dropout", "heads", "reach", "length"],
    )
    def test_what_they_cannot_compute(self, changes, message, trace_for):
        trace_for()
        assert not self.choose("auto", **changes)
        with pytest.raises(ValueError, match=rf"^config\.train\.attention: got 'pallas', whose .*{message}"):
            self.choose("pallas", **changes)
