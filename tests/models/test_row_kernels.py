"""BERT's and ModernBERT's attention in our kernels for TPUs, interpreted, compared with its definition."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from electra_jax.distributed.mesh import make_mesh
from electra_jax.distributed.sharding import axis_context, batch_sharding
from electra_jax.models.attention_form import LONGEST_WINDOWED, SHORTEST, uses_row_kernels
from electra_jax.models.config import encoder_shape, make_pretraining_config
from electra_jax.models.execution import REMAT, LayerExecution
from electra_jax.models.global_attention import global_attention
from electra_jax.models.local_attention import local_attention
from electra_jax.models.pretraining import make_encoder
from support import attention_cases
from support.attention_by_hand import by_hand, make_inputs
from support.attention_cases import assert_close, check_cut, check_refused, count_kernels, make_modern
from support.jaxprs import sizes_of
from support.tiny import key, model_section


@pytest.fixture
def trace_for(monkeypatch):
    """Make the layer take itself to be traced for a device of this kind."""

    def choose(device_kind="TPU v5 lite", platform="tpu"):
        attention_cases.trace_for(monkeypatch, device_kind, platform)

    return choose


def make_arguments(inputs, heads=2, head_size=64, dtype="float32"):
    """Queries, keys and values; the gradient of the context, which is zero for padding; inputs."""
    arrays = jax.random.normal(key(4), (4, *inputs.segments_BL.shape, heads, head_size))
    query, *rest = (x.astype(dtype) for x in arrays)
    *arrays, target = query / head_size**0.5, *rest
    return arrays, target * (inputs.segments_BL > 0)[:, :, None, None], inputs


def gradients(attention, arrays, target, inputs):
    """The context without padding, and all gradients."""
    context, pull_back = jax.vjp(lambda *arrays: attention(arrays, inputs), *arrays)
    return context * (inputs.segments_BL > 0)[:, :, None, None].astype(context.dtype), *pull_back(target)


def attention(form, reach, keep_prob=1.0):
    """(arrays, inputs) → context, as the layers call it."""

    def attend(arrays, inputs):
        dtype, dropout = str(arrays[0].dtype), None if keep_prob == 1.0 else key(7)
        if reach is None:
            return global_attention(keep_prob, dtype, arrays, inputs, dropout, form=form)
        return local_attention(keep_prob, dtype, reach, arrays, inputs, dropout, form)

    return attend


def both(first, second, arguments):
    return (jax.jit(functools.partial(gradients, each))(*arguments) for each in (first, second))


# A tile; a padded length; three tiles of 128; tiles of 256, the second of two documents.
@pytest.mark.parametrize(
    ("lengths", "total", "reach", "heads", "head_size"),
    [
        ((128,), 128, 64, 2, 64),
        ((60, 1, 100), 200, 8, 3, 64),
        ((129, 200), 384, 128, 1, 128),
        ((1, 300, 700), 1024, 64, 2, 32),
        ((640,), 640, 65, 2, 64),
        ((60, 1, 100), 200, None, 3, 64),
        ((1, 300, 700), 1024, None, 2, 64),
    ],
    ids=[
        "one tile",
        "packed and padded",
        "the longest reach",
        "tiles of 256",
        "a reach above half a register",
        "all keys, packed and padded",
        "all keys, tiles of 256",
    ],
)
def test_value_and_gradients_are_those_of_masked_attention(lengths, total, reach, heads, head_size):
    defined = functools.partial(by_hand, total if reach is None else reach)
    arguments = make_arguments(make_inputs(lengths, total), heads, head_size)
    assert_close(*both(attention("pallas", reach), defined, arguments))


def test_dropout_has_the_masks_of_the_plain_form():
    arguments = make_arguments(make_inputs((60, 1, 100), 200), heads=3)
    assert_close(*both(attention("pallas", None, 0.7), attention("plain", None, 0.7), arguments))


@pytest.mark.parametrize("reach", [None, 64], ids=["all keys", "a window"])
def test_bfloat16_agrees_with_the_plain_form(reach):
    """Both round the weights and the gradients of the scores, at slightly different places."""
    arguments = make_arguments(make_inputs((1, 300, 200), 512), dtype="bfloat16")
    for one, two in zip(*both(attention("pallas", reach), attention("plain", reach), arguments), strict=True):
        one, two = (np.asarray(x, np.float32) for x in (one, two))
        assert np.abs(one - two).max() <= 0.02 * np.abs(two).max()


@pytest.mark.parametrize("reach", [None, 8], ids=["all keys", "a window"])
def test_a_row_of_padding_alone_is_finite(reach):
    arrays, _, inputs = make_arguments(make_inputs((), 100))
    attend = attention("pallas", reach)
    context, pull_back = jax.vjp(lambda *arrays: attend(arrays, inputs), *arrays)
    assert all(np.isfinite(x).all() for x in (context, *pull_back(context)))


@pytest.mark.parametrize(("reach", "keep_prob"), [(None, 0.7), (5, 1.0)], ids=["all keys", "a window"])
def test_on_a_mesh_each_shard_computes_its_rows_and_heads(reach, keep_prob):
    """With the dropout of the whole batch and of all heads."""
    inputs = jax.tree.map(lambda x: jnp.concatenate([x, x]), make_inputs((10, 9), 24))
    inputs = inputs._replace(rows_B=jnp.arange(4, dtype=jnp.uint32))
    arguments = make_arguments(inputs, heads=4)
    compute = functools.partial(gradients, attention("pallas", reach, keep_prob))
    expected = jax.jit(compute)(*arguments)
    with axis_context(mesh := make_mesh({"data": 1, "fsdp": 2, "tensor": 2}, jax.devices()[:4])):
        rows = jax.device_put(arguments, batch_sharding(mesh))
        assert_close(jax.device_get(jax.jit(compute)(*rows)), expected)


@pytest.mark.parametrize(("reach", "length"), [(None, 1024), (64, 4096)], ids=["all keys", "a window"])
def test_nothing_outside_the_kernels_grows_with_the_square_of_the_length(reach, length, trace_for):
    trace_for()
    arguments = make_arguments(make_inputs((length,), length, num_rows=1), dtype="bfloat16")
    traced = jax.jit(functools.partial(gradients, attention("pallas", reach))).trace(*arguments)
    # Queries, keys and values; a tile's scores.
    assert max(sizes_of(traced.jaxpr.jaxpr)) == max(length * 2 * 64, 0 if reach else 256 * length)
    assert traced.lower(lowering_platforms=("tpu",)).as_text().count("tpu_custom_call") == 2


def test_what_is_recomputed_in_scanned_layers(trace_for):
    """Context and logarithms are kept unless the policy keeps products with parameters alone, or nothing; on
    a mesh, too.

    Two of five layers are global: the first, which runs before the loop, and one of those in the loop."""
    trace_for()
    found = {}
    with axis_context(make_mesh({"data": 1, "fsdp": 2, "tensor": 2}, jax.devices()[:4])):
        for remat in REMAT:
            encoder = make_encoder(make_modern(), LayerExecution("scanned", remat, "pallas"))
            found[remat] = count_kernels(encoder, 128)
    assert found == {"none": 10, "attention": 10, "dense": 15, "full": 15}


def test_auto_uses_kernels_in_every_layer_of_long_rows(trace_for):
    trace_for()
    encoder = lambda attention, config: make_encoder(config, LayerExecution("unrolled", "none", attention))
    forward = functools.partial(count_kernels, is_training=False)
    config = make_modern()
    assert forward(encoder("auto", config), SHORTEST) == 5
    assert forward(encoder("auto", config), SHORTEST - 128) == 0
    assert forward(encoder("plain", config), SHORTEST) == 0
    assert forward(make_encoder(config), SHORTEST) == 0  # fine-tuning, predictions and exports
    # Dropout of weights is no hindrance in the two global layers.
    assert forward(encoder("auto", make_modern(attention_dropout=0.1)), SHORTEST) == 2
    bert = encoder_shape(128, 2)
    section = model_section(attention_dropout=0.1, dtype="bfloat16", embedding_size=128)
    bert = make_pretraining_config(section | {"generator": bert, "discriminator": bert}).discriminator
    assert forward(encoder("auto", bert), SHORTEST) == 2


class TestChoice:
    """Which form runs."""

    shape = (8, 1024, 2, 64)

    def choose(self, wanted, shape=shape, keep_prob=1.0, reach=None, is_directed=False, has_bias=False):
        return uses_row_kernels(wanted, keep_prob, reach, shape, is_directed=is_directed, has_bias=has_bias)

    @pytest.mark.parametrize("reach", [None, 64], ids=["all keys", "a window"])
    def test_they_run_on_tpus_in_long_rows(self, reach, trace_for):
        trace_for()
        choose = functools.partial(self.choose, reach=reach)
        assert choose("auto")
        assert choose("auto", (8, SHORTEST, 2, 64))
        assert not choose("auto", (8, SHORTEST - 1, 2, 64))
        assert choose("pallas", (8, 20, 2, 64))
        assert not choose("plain")

    @pytest.mark.parametrize(
        ("kind", "platform"), [("TPU v4", "tpu"), ("NVIDIA H100 80GB HBM3", "gpu")], ids=["v4", "H100"]
    )
    def test_other_devices_do_without_them(self, kind, platform, trace_for):
        trace_for(kind, platform)
        assert not self.choose("auto")
        with pytest.raises(ValueError, match=rf"need a TPU v5e, v5p or v6e \(this device is a {kind}\)"):
            self.choose("pallas")

    def test_dropout_of_weights_runs_where_there_is_no_window(self, trace_for):
        trace_for()
        assert self.choose("auto", keep_prob=0.9)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"has_bias": True}, "add no bias to the scores"),
            ({"is_directed": True}, "attend in both directions"),
            ({"shape": (8, 1024, 2, 48)}, r"need heads of 32, 64 or 128 features \(these have 48\)"),
            (
                {"reach": 64, "keep_prob": 0.9},
                r"need config\.model\.attention_dropout=0 in local layers \(here 0\.1\)",
            ),
            ({"reach": 129}, r"need config\.model\.rotary\.window of at most 256 \(here 258\)"),
            ({"reach": 64, "shape": (8, LONGEST_WINDOWED + 1, 2, 64)}, r"need rows of at most 8192 tokens"),
        ],
        ids=["bias", "directed", "heads", "dropout", "reach", "length"],
    )
    def test_what_they_cannot_compute(self, changes, message, trace_for):
        trace_for()
        check_refused(self.choose, changes, message)

    def test_a_mesh_divides_rows_and_heads(self, trace_for):
        trace_for()
        check_cut(self.choose, 1024)
