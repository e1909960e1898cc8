"""BERT's and ModernBERT's attention in a TPU's kernels, interpreted, compared with its definition."""

import functools

import jax
import jax.numpy as jnp
import pytest

from electra_jax.distributed.mesh import make_mesh
from electra_jax.distributed.sharding import BATCH_AXES, axis_context, batch_sharding, data_shard_context
from electra_jax.models.attention_form import LONGEST_WHOLE, uses_splash
from electra_jax.models.config import make_pretraining_config
from electra_jax.models.execution import LayerExecution
from electra_jax.models.pretraining import make_encoder
from electra_jax.models.splash_attention import splash_attention
from support import attention_cases
from support.attention_by_hand import by_hand, make_inputs
from support.attention_cases import assert_close, check_cut, check_refused, count_kernels, make_modern
from support.jaxprs import sizes_of
from support.tiny import key, model_section, modern_section, relative_section

HEADS, HEAD_SIZE = 2, 64


@pytest.fixture
def trace_for(monkeypatch):
    """Make the layer take itself to be traced for a device of this kind."""

    def choose(device_kind="TPU v5 lite", platform="tpu"):
        attention_cases.trace_for(monkeypatch, device_kind, platform)

    return choose


def make_arrays(num_rows, length, dtype="float32"):
    arrays = jax.random.normal(key(4), (4, num_rows, length, HEADS, HEAD_SIZE))
    query, *rest = arrays * jnp.array([HEAD_SIZE**-0.5, 1, 1, 1]).reshape(4, 1, 1, 1, 1)
    return [x.astype(dtype) for x in (query, *rest)]


def gradients(attention, query, key_, value, target, inputs):
    """Context and all gradients."""

    def loss(arrays):
        context = attention(arrays, inputs)
        return (context.astype(jnp.float32) * target).sum(), context

    return jax.grad(loss, has_aux=True)((query, key_, value))


in_kernels = splash_attention


def by_definition(arrays, inputs):
    return by_hand(arrays[0].shape[1], arrays, inputs)


# A block; a padded length; a longer block; several blocks.
@pytest.mark.parametrize(
    ("lengths", "total"),
    [((128,), 128), ((60, 1, 100), 200), ((1, 300, 700), 1024), ((700, 440), 1152)],
    ids=["one document", "packed and padded", "a long block", "several blocks"],
)
def test_value_and_gradients_are_those_of_masked_attention(lengths, total):
    inputs = make_inputs(lengths, total)
    arguments = (*make_arrays(2, total), inputs)
    got, expected = (
        jax.jit(functools.partial(gradients, form))(*arguments) for form in (in_kernels, by_definition)
    )
    assert_close(got, expected)


def test_a_row_of_padding_alone_is_finite():
    """Padding attends to padding, as in the plain form."""
    inputs = make_inputs((), 100)
    arguments = (*make_arrays(2, 100), inputs)
    got, expected = (
        jax.jit(functools.partial(gradients, form))(*arguments) for form in (in_kernels, by_definition)
    )
    assert_close(got, expected)


def test_on_a_mesh_each_shard_computes_its_rows_and_heads():
    """The tensor axis cuts the heads; the compiler cuts the rows, or data shards do, as with microbatches."""
    inputs = jax.tree.map(lambda x: jnp.concatenate([x, x]), make_inputs((10, 9), 24))
    arguments = (*make_arrays(4, 24), inputs)
    expected = jax.jit(functools.partial(gradients, by_definition))(*arguments)

    def in_data_shards(*rows):
        @functools.partial(jax.vmap, spmd_axis_name=BATCH_AXES)
        def of_shard(*rows):
            with data_shard_context():
                return gradients(in_kernels, *rows)

        split = lambda x: x.reshape(2, 2, *x.shape[1:])
        return jax.tree.map(lambda x: x.reshape(4, *x.shape[2:]), of_shard(*jax.tree.map(split, rows)))

    for axis, function in (("fsdp", functools.partial(gradients, in_kernels)), ("data", in_data_shards)):
        mesh = make_mesh({"data": 1, "fsdp": 1, "tensor": 2} | {axis: 2}, jax.devices()[:4])
        with axis_context(mesh):
            rows = jax.device_put(arguments, batch_sharding(mesh))
            assert_close(jax.device_get(jax.jit(function)(*rows)), expected)


def test_nothing_outside_the_kernels_has_a_score_for_each_pair_and_they_lower_for_a_tpu(trace_for):
    trace_for()
    arguments = (*make_arrays(1, 4096, "bfloat16"), make_inputs((4000,), 4096, num_rows=1))
    traced = jax.jit(functools.partial(gradients, in_kernels)).trace(*arguments)
    assert max(sizes_of(traced.jaxpr.jaxpr)) <= 1024**2  # the scores of a block
    assert traced.lower(lowering_platforms=("tpu",)).as_text().count("tpu_custom_call") == 3


def test_auto_uses_them_in_global_layers_of_rows_above_the_longest_that_are_computed_whole(trace_for):
    """Two of the five layers are global; the others have a kernel forward and one backward."""
    trace_for()
    encoder = make_encoder(make_modern(), LayerExecution("unrolled", "none", "auto"))
    assert count_kernels(encoder, LONGEST_WHOLE) == 5 * 2
    assert count_kernels(encoder, LONGEST_WHOLE + 128) == 2 * 3 + 3 * 2


class TestChoice:
    """Which form runs."""

    shape = (8, 2048, 2, 64)

    def choose(self, wanted, shape=shape, keep_prob=1.0, dtype="bfloat16", is_directed=False, has_bias=False):
        return uses_splash(wanted, keep_prob, dtype, shape, is_directed=is_directed, has_bias=has_bias)

    @pytest.mark.parametrize("kind", ["TPU v5 lite", "TPU v5p", "TPU v6 lite"])
    def test_they_run_on_tpus_that_they_have_been_compiled_for(self, kind, trace_for):
        trace_for(kind)
        assert self.choose("auto")
        assert self.choose("pallas")
        assert not self.choose("plain")

    @pytest.mark.parametrize(
        ("kind", "platform"), [("TPU v4", "tpu"), ("TPU7x", "tpu"), ("NVIDIA H100 80GB HBM3", "gpu")]
    )
    def test_other_devices_do_without_them(self, kind, platform, trace_for):
        trace_for(kind, platform)
        assert not self.choose("auto")
        with pytest.raises(ValueError, match=rf"need a TPU v5e, v5p or v6e \(this device is a {kind}\)"):
            self.choose("pallas")

    def test_a_cpu_interprets_them_when_asked(self):
        assert not self.choose("auto")
        assert self.choose("pallas", dtype="float32")

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"has_bias": True}, "add no bias to the scores"),
            ({"is_directed": True}, "attend in both directions"),
            ({"keep_prob": 0.9}, r"need config\.model\.attention_dropout=0 in rows above 1024 \(here 0\.1\)"),
            ({"shape": (8, 2048, 2, 32)}, r"need heads of 64 or 128 features \(these have 32\)"),
            (
                {"dtype": "float32"},
                r"need config\.model\.dtype='bfloat16' in rows above 1024 \(here 'float32'\)",
            ),
        ],
        ids=["bias", "directed", "dropout", "heads", "dtype"],
    )
    def test_what_they_cannot_compute(self, changes, message, trace_for):
        trace_for()
        check_refused(self.choose, changes, message)

    def test_a_mesh_divides_rows_and_heads(self, trace_for):
        trace_for()
        check_cut(self.choose, 2048)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (modern_section(attention_dropout=0.1), r"config\.model\.attention_dropout=0\.1"),
        (relative_section(attention_dropout=0.0), r"config\.model\.position='relative_bias'"),
    ],
    ids=["dropout", "bias"],
)
def test_pallas_is_an_error_where_no_device_has_kernels(section, message):
    execution = LayerExecution("unrolled", "none", "pallas")
    for allowed in (modern_section(), model_section(attention_dropout=0.1)):
        make_pretraining_config(allowed, execution)
    with pytest.raises(ValueError, match=rf"^config\.train\.attention: got 'pallas', .* with {message}"):
        make_pretraining_config(section, execution)
