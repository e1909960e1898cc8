"""Disentangled attention in a TPU's kernels, interpreted, compared with the plain form."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu
from jax.extend.core import jaxprs_in_params

from electra_jax.distributed.mesh import make_mesh
from electra_jax.distributed.sharding import BATCH_AXES, axis_context, batch_sharding, data_shard_context
from electra_jax.models.attention_form import traced_device, uses_kernels
from electra_jax.models.config import encoder_shape, make_pretraining_config
from electra_jax.models.disentangled_attention import DisentangledSelfAttention
from electra_jax.models.encoder import EncoderLayer
from electra_jax.models.execution import REMAT, UNROLLED, LayerExecution
from electra_jax.models.inputs import derive_inputs
from electra_jax.models.pretraining import make_encoder
from electra_jax.models.tpu.tiles import Plan, inverse_skew, rolled_rows, skew
from electra_jax.training.state import unbox
from support.tiny import SPECIAL, deberta_section, key, model_section

# As the published tables: exact up to a distance of 32, here, and clipped beyond 300.
BUCKETS = {"position_buckets": 64, "max_relative_positions": 300}


@pytest.fixture
def trace_for(monkeypatch):
    """Make the layer take itself to be traced for a device of this kind."""

    def choose(device_kind="TPU v5 lite", platform="tpu"):
        device = jax.sharding.AbstractDevice(device_kind, 1, platform)
        monkeypatch.setattr("electra_jax.models.attention_form.traced_device", lambda: device)

    return choose


def make_encoder_config(heads=1, head_size=128, dtype="float32", dropout=0.1):
    section, shape = deberta_section(), encoder_shape(heads * head_size, 2) | {"num_heads": heads}
    changes = {"generator": shape, "discriminator": shape, "embedding_size": heads * head_size}
    changes |= {"disentangled": section["disentangled"] | BUCKETS, "dtype": dtype}
    return make_pretraining_config(section | changes | {"attention_dropout": dropout}).discriminator


def packed_inputs(num_rows, length):
    """Rows of one to three documents; the last one ends with padding."""
    ids = np.random.default_rng(0).integers(5, 200, size=(num_rows, length)).astype(np.int32)
    ids[:, 0] = ids[0, length // 3] = ids[0, length // 2 + 7] = ids[-1, length // 4] = SPECIAL.cls
    ids[-1, length - 9 :] = SPECIAL.pad
    return derive_inputs(jnp.asarray(ids), SPECIAL, 0)


class Case:
    """One layer, with its arguments; queries are another stream than keys, as in the decoder."""

    def __init__(self, config, num_rows, length):
        shape = (num_rows, length, config.hidden_size)
        draw = lambda seed, shape: jax.random.normal(key(seed), shape).astype(config.dtype)
        self.config, self.inputs = config, packed_inputs(num_rows, length)
        self.query, self.x, self.target = draw(1, shape), draw(2, shape), draw(3, shape)
        self.table = draw(4, (2 * BUCKETS["position_buckets"], config.hidden_size))
        init = DisentangledSelfAttention(config, False).init
        arguments = (self.query, self.x, self.table, self.inputs, True)
        params = jax.eval_shape(lambda: unbox(init({"params": key(), "dropout": key()}, *arguments)))
        leaves, tree = jax.tree.flatten(params["params"])
        scale = config.hidden_size**-0.5  # scores of about 1, and biases
        self.params = tree.unflatten(
            [scale * jax.random.normal(key(9 + n), leaf.shape) for n, leaf in enumerate(leaves)]
        )

    def gradients(self, form, params, table, query, x, inputs, target):
        """The layer's output, and all its gradients."""

        def loss(params, table, query, x):
            layer = DisentangledSelfAttention(self.config, False, form)
            y = layer.apply(
                {"params": params}, query, x, table, inputs, True, rngs={"dropout": jax.random.key(7)}
            )
            return (y.astype(jnp.float32) * target).sum(), y

        return jax.grad(loss, argnums=(0, 1, 2, 3), has_aux=True)(params, table, query, x)

    @property
    def arguments(self):
        return self.params, self.table, self.query, self.x, self.inputs, self.target


def assert_close(got, expected, tolerance=1e-5):
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        one, other = np.asarray(one, np.float32), np.asarray(other, np.float32)
        np.testing.assert_allclose(one, other, rtol=0, atol=tolerance * np.abs(other).max())


def compare(case, tolerance=1e-5):
    results = [
        jax.jit(functools.partial(case.gradients, form))(*case.arguments) for form in ("pallas", "plain")
    ]
    assert_close(*results, tolerance)


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


def equations(jaxpr):
    for equation in jaxpr.eqns:
        yield equation
        for inner in jaxprs_in_params(equation.params):
            yield from equations(inner)


@pytest.mark.parametrize(("dtype", "precision"), [("float32", "HIGHEST"), ("bfloat16", "DEFAULT")])
def test_no_array_has_all_scores_and_products_have_the_precision_of_the_dtype(dtype, precision, trace_for):
    trace_for()
    case = Case(make_encoder_config(dtype=dtype), 2, 512)
    jaxpr = jax.make_jaxpr(functools.partial(case.gradients, "pallas"))(*case.arguments).jaxpr
    found = list(equations(jaxpr))
    kernels = [one for one in found if one.primitive.name == "pallas_call"]
    assert len(kernels) == 2
    for kernel in kernels:
        products = [one for one in equations(kernel.params["jaxpr"]) if one.primitive.name == "dot_general"]
        assert len(products) > 5
        for product in products:
            assert {one.name for one in product.params["precision"]} == {precision}
            assert {str(variable.aval.dtype) for variable in product.invars} == {dtype}
    inside = {id(one) for kernel in kernels for one in equations(kernel.params["jaxpr"])}
    for equation in found:
        if id(equation) not in inside:
            for variable in equation.outvars:
                shape = getattr(variable.aval, "shape", ())
                assert len(shape) < 3 or min(shape[-2:]) < 512, equation


def shapes_of_params(module, *arguments):
    return unbox(jax.eval_shape(lambda: module.init(key(), *arguments)))


def kernels_of(function, *arguments):
    """Kernels whose results are used; rematerialisation leaves others, which the compiler removes."""

    def count(jaxpr):
        used = {id(variable) for one in jaxpr.eqns for variable in one.invars} | set(map(id, jaxpr.outvars))
        is_kernel = lambda one: one.primitive.name == "pallas_call" and used & set(map(id, one.outvars))
        inner = [each for one in jaxpr.eqns for each in jaxprs_in_params(one.params)]
        return sum(bool(is_kernel(one)) for one in jaxpr.eqns) + sum(map(count, inner))

    return count(jax.make_jaxpr(function)(*arguments).jaxpr)


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

    def test_a_gpu_does_without_them(self, trace_for):
        trace_for("NVIDIA H100 80GB HBM3", "gpu")
        assert not uses_kernels("auto", make_encoder_config(2, 64), self.shape, is_directed=False)

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

    def test_pallas_needs_disentangled_attention(self):
        execution = LayerExecution("unrolled", "none", "pallas")
        make_pretraining_config(deberta_section(), execution)
        with pytest.raises(ValueError, match=r"^config\.train\.attention: got 'pallas', expected 'auto' or"):
            make_pretraining_config(model_section(), execution)
        with pytest.raises(ValueError, match=r"^config\.train\.attention: got 'flash', expected one of"):
            LayerExecution("unrolled", "none", "flash")
