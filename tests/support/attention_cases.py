"""A layer of disentangled attention with arguments, whose kernels are compared with the plain form."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from electra_jax.distributed.mesh import make_mesh
from electra_jax.distributed.sharding import axis_context
from electra_jax.models.config import encoder_shape, make_pretraining_config
from electra_jax.models.disentangled_attention import DisentangledSelfAttention
from electra_jax.models.inputs import derive_inputs
from electra_jax.training.state import unbox
from support.tiny import SPECIAL, deberta_section, key, modern_section

# As the published tables: exact up to a distance of 32, here, and clipped beyond 300.
BUCKETS = {"position_buckets": 64, "max_relative_positions": 300}


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


def equations(jaxpr):
    for equation in jaxpr.eqns:
        yield equation
        for inner in jaxprs_in_params(equation.params):
            yield from equations(inner)


def kernels_of(function, *arguments):
    """Kernels whose results are used; rematerialisation leaves others, which the compiler removes."""

    def count(jaxpr):
        used = {id(variable) for one in jaxpr.eqns for variable in one.invars} | set(map(id, jaxpr.outvars))
        is_kernel = lambda one: one.primitive.name == "pallas_call" and used & set(map(id, one.outvars))
        inner = [each for one in jaxpr.eqns for each in jaxprs_in_params(one.params)]
        return sum(bool(is_kernel(one)) for one in jaxpr.eqns) + sum(map(count, inner))

    return count(jax.make_jaxpr(function)(*arguments).jaxpr)


def shapes_of_params(module, *arguments):
    """Its parameters as shapes."""
    return unbox(jax.eval_shape(lambda: module.init(key(), *arguments)))


def check_traced_program(case, *, num_kernels, dtype, precision):
    """That kernels multiply numbers of `dtype` at this precision, and that nothing else has all scores."""
    jaxpr = jax.make_jaxpr(functools.partial(case.gradients, "pallas"))(*case.arguments).jaxpr
    found = list(equations(jaxpr))
    kernels = [one for one in found if one.primitive.name == "pallas_call"]
    assert len(kernels) == num_kernels
    for kernel in kernels:
        products = [one for one in equations(kernel.params["jaxpr"]) if one.primitive.name == "dot_general"]
        assert len(products) >= 4
        for product in products:
            assert {one.name for one in product.params["precision"]} == {precision}
            assert {str(variable.aval.dtype) for variable in product.invars} == {dtype}
    inside = {id(one) for kernel in kernels for one in equations(kernel.params["jaxpr"])}
    for equation in found:
        if id(equation) not in inside:
            for variable in equation.outvars:
                shape = getattr(variable.aval, "shape", ())
                assert len(shape) < 3 or min(shape[-2:]) < 512, equation


def trace_for(monkeypatch, device_kind, platform):
    """Make layers take themselves to be traced for a device of this kind."""
    device = jax.sharding.AbstractDevice(device_kind, 1, platform)
    monkeypatch.setattr("electra_jax.models.attention_form.traced_device", lambda: device)


def make_modern(**changes):
    """ModernBERT's encoder with five layers, two of them global, and two heads of 64."""
    shape = encoder_shape(128, 5) | {"num_heads": 2}
    changes = {"discriminator": shape, "generator": shape, "embedding_size": 128} | changes
    return make_pretraining_config(modern_section(dtype="bfloat16") | changes).discriminator


def count_kernels(encoder, length, is_training=True, num_rows=2):
    """`kernels_of` an encoder, with its gradient in training."""
    inputs = packed_inputs(num_rows, length)
    x = jnp.zeros((num_rows, length, encoder.config.hidden_size), encoder.config.dtype)
    params = shapes_of_params(encoder, x, inputs, False)
    loss = lambda params: encoder.apply(params, x, inputs, is_training, rngs={"dropout": key()}).sum()
    return kernels_of(jax.grad(loss) if is_training else loss, params)


def check_refused(choose, changes, message):
    """`choose(wanted, **changes)` does without kernels for "auto"; for "pallas" it is an error."""
    assert not choose("auto", **changes)
    with pytest.raises(ValueError, match=rf"^config\.train\.attention: got 'pallas', whose .*{message}"):
        choose("pallas", **changes)


def check_cut(choose, length):
    """`choose("auto", shape=…)` takes kernels if the mesh divides the rows and the heads."""
    with axis_context(make_mesh({"data": 2, "fsdp": 1, "tensor": 2}, jax.devices()[:4])):
        assert choose("auto", shape=(8, length, 2, 64))
        assert not choose("auto", shape=(7, length, 2, 64))
        assert not choose("auto", shape=(8, length, 3, 64))
