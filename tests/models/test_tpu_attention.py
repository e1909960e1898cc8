"""Disentangled attention in a TPU's kernels, interpreted, compared with the plain form."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu

from electra_jax.distributed.mesh import make_mesh
from electra_jax.distributed.sharding import BATCH_AXES, axis_context, batch_sharding, data_shard_context
from electra_jax.models.attention_form import traced_device, uses_kernels
from electra_jax.models.config import make_pretraining_config
from electra_jax.models.disentangled_attention import DisentangledSelfAttention
from electra_jax.models.encoder import EncoderLayer
from electra_jax.models.execution import REMAT, UNROLLED, LayerExecution
from electra_jax.models.pretraining import make_encoder
from electra_jax.models.tpu.tiles import Plan, inverse_skew, rolled_rows, skew
from support import attention_cases
from support.attention_cases import (
    Case,
    assert_close,
    check_traced_program,
    compare,
    kernels_of,
    make_encoder_config,
    packed_inputs,
    shapes_of_params,
)
from support.tiny import deberta_section, key


@pytest.fixture
def trace_for(monkeypatch):
    """Make the layer take itself to be traced for a device of this kind."""

    def choose(device_kind="TPU v5 lite", platform="tpu"):
        attention_cases.trace_for(monkeypatch, device_kind, platform)

    return choose


@pytest.mark.parametrize(
    ("heads", "head_size", "num_rows", "length"),
    # One tile; a padded length; several tiles; several chunks of keys. Heads that share a block, with one
    # place left.
    [(3, 64, 2, 128), (1, 128, 2, 200), (1, 128, 2, 512), (1, 128, 1, 1024)],
)
def test_value_and_gradients_are_those_of_the_plain_form(heads, head_size, num_rows, length):
    compare(Case(make_encoder_config(heads, head_size), num_rows, length))


def test_in_bfloat16_they_differ_by_rounding():
    compare(Case(make_encoder_config(dtype="bfloat16", dropout=0.0), 2, 100), 0.02)


def test_on_a_mesh_each_shard_computes_its_rows_and_heads():
    """The tensor axis cuts the heads; the compiler cuts the rows, or data shards do, as with microbatches."""
    case = Case(make_encoder_config(4, 64), 4, 24)
    expected = jax.jit(functools.partial(case.gradients, "plain"))(*case.arguments)
    split = lambda x: x.reshape(2, 2, *x.shape[1:])

    def in_data_shards(params, table, *rows):
        @functools.partial(jax.vmap, spmd_axis_name=BATCH_AXES)
        def of_shard(*rows):
            with data_shard_context():
                return case.gradients("pallas", params, table, *rows)

        (of_params, of_table, *of_rows), y = of_shard(*jax.tree.map(split, rows))
        of_params, of_table = jax.tree.map(lambda x: x.sum(axis=0), (of_params, of_table))
        join = lambda x: x.reshape(4, *x.shape[2:])
        return (of_params, of_table, *map(join, of_rows)), join(y)

    for axis, function in (("fsdp", functools.partial(case.gradients, "pallas")), ("data", in_data_shards)):
        mesh = make_mesh({"data": 1, "fsdp": 1, "tensor": 2} | {axis: 2}, jax.devices()[:4])
        with axis_context(mesh):
            rows = jax.device_put(case.arguments[2:], batch_sharding(mesh))
            assert_close(jax.device_get(jax.jit(function)(*case.arguments[:2], *rows)), expected)


def test_an_interpreted_roll_is_that_of_the_chip():
    plan = Plan(128, 1, 128, 1.0, "float32", True)
    x = jax.random.normal(key(), (8, 24))
    for shift in (1, 16):
        ours, chips = rolled_rows(plan, x, shift), jax.jit(pltpu.roll, static_argnums=(1, 2))(x, shift, 1)
        np.testing.assert_array_equal(ours[0], chips[0])
        strided = jax.jit(functools.partial(pltpu.roll, shift=shift, axis=1, stride=1, stride_axis=0))(x)
        np.testing.assert_array_equal(ours, strided)
    shifted = skew(plan, x)
    for i, j in ((0, 0), (3, 5), (7, 15)):
        assert shifted[i, j] == x[i, j + 8 - i]
    y = jax.random.normal(key(1), shifted.shape)
    transposed = inverse_skew(plan, y[::-1])[::-1]
    np.testing.assert_allclose((shifted * y).sum(), (x * transposed).sum(), rtol=1e-5)


@pytest.mark.parametrize(("dtype", "precision"), [("float32", "HIGHEST"), ("bfloat16", "DEFAULT")])
def test_no_array_has_all_scores_and_products_have_the_precision_of_the_dtype(dtype, precision, trace_for):
    trace_for()
    case = Case(make_encoder_config(dtype=dtype), 2, 512)
    check_traced_program(case, num_kernels=2, dtype=dtype, precision=precision)


def test_rows_that_are_mapped_one_by_one_lower_for_a_tpu(trace_for):
    """As the losses of single rows are computed: their numbers are then [R, …], of which a kernel takes one.

    Lowering checks the shapes of blocks; the compiler itself is not here.
    """
    trace_for()
    case = Case(make_encoder_config(2, 64), 4, 128)
    split = lambda x: x[:, None]

    def of_rows(params, table, *rows):
        of_row = lambda *row: case.gradients("pallas", params, table, *row)
        return jax.vmap(of_row)(*jax.tree.map(split, rows))

    lowered = jax.jit(of_rows).trace(*case.arguments).lower(lowering_platforms=("tpu",))
    assert lowered.as_text().count("tpu_custom_call") == 2


def test_rows_that_are_mapped_one_by_one_have_the_same_values():
    case = Case(make_encoder_config(2, 64), 3, 24)
    params, table, query, x, inputs, target = case.arguments

    def of_row(query, x, inputs):
        return case.gradients("pallas", params, table, query, x, inputs, target[:1])[1]

    rows = jax.tree.map(lambda leaf: leaf[:, None], (query, x, inputs))
    got = jax.jit(jax.vmap(of_row))(*rows)[:, 0]
    expected = jax.jit(functools.partial(case.gradients, "plain"))(*case.arguments)[1]
    assert_close(got, expected)


def test_what_is_recomputed_in_scanned_layers(trace_for):
    """Context and logarithms are kept unless the policy keeps products with parameters alone, or nothing."""
    trace_for()
    config, inputs = make_encoder_config(2, 64), packed_inputs(2, 24)
    x = jnp.zeros((2, 24, config.hidden_size))
    found = {}
    for remat in REMAT:
        encoder = make_encoder(config, LayerExecution("scanned", remat, "pallas"))
        params = shapes_of_params(encoder, x, inputs, False)
        loss = lambda params, e=encoder: e.apply(params, x, inputs, True, rngs={"dropout": key()}).sum()
        found[remat] = kernels_of(jax.grad(loss), params)
    assert found == {"none": 2, "attention": 2, "dense": 3, "full": 3}


def test_only_training_uses_kernels_without_being_asked(trace_for):
    """Fine-tuning, predictions and exports take the modules' defaults."""
    trace_for()
    config, inputs = make_encoder_config(2, 64), packed_inputs(2, 24)
    x, table = jnp.zeros((2, 24, config.hidden_size)), jnp.zeros((2 * 64, config.hidden_size))
    modules = [
        (make_encoder(config), (x, inputs, False)),
        (EncoderLayer(config, False), (x, inputs, False, table)),
        (DisentangledSelfAttention(config, False), (x, x, table, inputs, False)),
    ]
    for module, arguments in modules:
        params = shapes_of_params(module, *arguments)
        assert kernels_of(lambda params, m=module, a=arguments: m.apply(params, *a), params) == 0
    assert make_pretraining_config(deberta_section()).execution == UNROLLED
    assert UNROLLED == LayerExecution("unrolled", "none") == LayerExecution("unrolled", "none", "plain")
    for attention in ("auto", "plain"):
        execution = LayerExecution.of_training(
            {"layers": "unrolled", "remat": "none", "attention": attention}
        )
        encoder = make_encoder(config, execution)
        params = shapes_of_params(encoder, x, inputs, False)
        number = kernels_of(lambda params, e=encoder: e.apply(params, x, inputs, False), params)
        assert number == (config.num_layers if attention == "auto" else 0)


class TestChoice:
    """Which form runs."""

    shape = (8, 512, 2, 64)

    def test_auto_is_plain_where_there_is_no_tpu(self):
        assert traced_device().platform == "cpu"
        assert not uses_kernels("auto", make_encoder_config(2, 64), self.shape, is_directed=False)

    @pytest.mark.parametrize(
        "kind", ["TPU v5 lite", "TPU v5e", "TPU v5", "TPU v5p", "TPU v6 lite", "TPU v6e"]
    )
    def test_they_run_on_tpus_that_they_have_been_compiled_for(self, kind, trace_for):
        trace_for(kind)
        for wanted in ("auto", "pallas"):
            assert uses_kernels(wanted, make_encoder_config(2, 64), self.shape, is_directed=False)

    @pytest.mark.parametrize("kind", ["TPU v2", "TPU v3", "TPU v4", "TPU v4 lite", "TPU7x", "TPU v9"])
    def test_other_tpus_do_without_them(self, kind, trace_for):
        trace_for(kind)
        config = make_encoder_config(2, 64)
        for wanted in ("auto", "plain"):
            assert not uses_kernels(wanted, config, self.shape, is_directed=False)
        message = rf"got 'pallas', whose kernels need a TPU v5e, v5p or v6e \(this device is a {kind}\)"
        with pytest.raises(ValueError, match=message):
            uses_kernels("pallas", config, self.shape, is_directed=False)

    def test_a_gpu_has_them_when_asked(self, trace_for):
        """They have not been timed there."""
        trace_for("NVIDIA H100 80GB HBM3", "gpu")
        config, long = make_encoder_config(2, 64), (8, 4096, 2, 64)
        for wanted in ("auto", "plain"):
            assert not uses_kernels(wanted, config, self.shape, is_directed=False)
        assert uses_kernels("pallas", config, long, is_directed=False)
        with pytest.raises(ValueError, match=r"rows of at most 4096 tokens in float32 \(these have 4097\)"):
            uses_kernels("pallas", config, (8, 4097, 2, 64), is_directed=False)

    def test_the_mesh_in_context_tells_the_device(self):
        kind = jax.sharding.AbstractDevice("TPU v5 lite", 1, "tpu")
        mesh = jax.sharding.AbstractMesh((1,), ("data",), abstract_device=kind)
        with jax.sharding.use_abstract_mesh(mesh):
            assert traced_device().device_kind == "TPU v5 lite"

    def test_auto_uses_the_kernels_on_a_tpu_for_shapes_that_they_compute(self, trace_for):
        trace_for()
        config = make_encoder_config(2, 64)
        choose = functools.partial(uses_kernels, "auto")
        assert choose(config, self.shape, is_directed=False)
        assert not uses_kernels("plain", config, self.shape, is_directed=False)
        assert not choose(config, self.shape, is_directed=True)
        assert not choose(make_encoder_config(2, 48), (8, 512, 2, 48), is_directed=False)
        assert choose(make_encoder_config(dtype="bfloat16"), (8, 4096, 1, 128), is_directed=False)
        assert not choose(make_encoder_config(dtype="bfloat16"), (8, 4097, 1, 128), is_directed=False)
        assert not choose(make_encoder_config(), (8, 4096, 1, 128), is_directed=False)
        with axis_context(make_mesh({"data": 2, "fsdp": 1, "tensor": 2}, jax.devices()[:4])):
            assert choose(config, self.shape, is_directed=False)
            assert not choose(config, (7, 512, 2, 64), is_directed=False)
            assert not choose(config, (8, 512, 3, 64), is_directed=False)

    @pytest.mark.parametrize(
        ("head_size", "shape", "is_directed", "message"),
        [
            (48, (8, 512, 2, 48), False, r"need heads of 32, 64 or 128 features \(these have 48\)"),
            (16, (8, 512, 2, 16), False, r"need heads of 32, 64 or 128 features \(these have 16\)"),
            (64, (8, 2049, 2, 64), False, "need rows of at most 2048 tokens in float32 .these have 2049"),
            (64, (8, 512, 2, 64), True, "attend in both directions"),
        ],
    )
    def test_pallas_for_another_shape_is_an_error(self, head_size, shape, is_directed, message):
        with pytest.raises(ValueError, match=rf"^config\.train\.attention: got 'pallas', whose .*{message}"):
            uses_kernels("pallas", make_encoder_config(2, head_size), shape, is_directed=is_directed)

    def test_an_unknown_form_is_an_error(self):
        make_pretraining_config(deberta_section(), LayerExecution("unrolled", "none", "pallas"))
        with pytest.raises(ValueError, match=r"^config\.train\.attention: got 'flash', expected one of"):
            LayerExecution("unrolled", "none", "flash")
