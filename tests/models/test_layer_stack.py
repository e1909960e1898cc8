"""Unrolled and scanned layers with and without rematerialisation: the same results, less memory."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from electra_jax.distributed.mesh import make_mesh
from electra_jax.models.config import encoder_shape, make_pretraining_config
from electra_jax.models.execution import LAYERS, REMAT, UNROLLED, LayerExecution
from electra_jax.models.inputs import derive_inputs
from electra_jax.models.pretraining import make_encoder
from electra_jax.objectives.electra import make_electra_objective
from electra_jax.training import program
from electra_jax.training.metrics import summarize
from electra_jax.training.state import unbox
from support.random_parameters import random_parameters
from support.tiny import LENGTH, SPECIAL, deberta_section, key, model_section, rows
from support.training_steps import config, plain_descent, run_steps

WIDTH, DEPTH = 32, 4
SHAPE = encoder_shape(WIDTH, DEPTH) | {"num_heads": 2}
CHANGES = {
    "embedding_size": WIDTH,
    "hidden_dropout": 0.1,
    "attention_dropout": 0.1,
    "discriminator": SHAPE,
    "generator": SHAPE,
}
DISENTANGLED = deberta_section()["disentangled"]
# Name: (config.model, whether the last layer is the enhanced mask decoder). That layer, and the one before a
# convolution, are not part of the loop.
ENCODERS = {
    "absolute": (model_section(**CHANGES), False),
    "decoder": (deberta_section(**CHANGES), True),
    "decoder_and_convolution": (
        deberta_section(**CHANGES, disentangled=DISENTANGLED | {"conv_kernel_size": 3}),
        True,
    ),
}
SCANNED = (LayerExecution("scanned", "attention"), LayerExecution("scanned", "full"))


def gradient_of(name, execution, num_rows=4, depth=DEPTH):
    """(function from parameters to a loss with dropout and its gradients, function that draws parameters) of
    an encoder."""
    section, has_decoder = ENCODERS[name]
    section = section | {"discriminator": SHAPE | {"num_layers": depth}}
    encoder = make_encoder(make_pretraining_config(section).discriminator, execution)
    inputs = derive_inputs(jnp.asarray(rows(num_rows)), SPECIAL, section["type_vocab_size"])
    x_BLD, target_BLD, positions_BLD = jax.random.normal(key(1), (3, num_rows, LENGTH, WIDTH))
    more = (positions_BLD,) if has_decoder else ()

    def init():
        return unbox(encoder.init(key(), x_BLD, inputs, False, *more)["params"])

    def loss(params):
        return (
            encoder.apply({"params": params}, x_BLD, inputs, True, *more, rngs={"dropout": key(2)})
            * target_BLD
        ).sum()

    return jax.value_and_grad(loss), init


# Two layers are in the loop of each. With a decoder, layers outside of it are recomputed as unrolled ones.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "depth", "forms"),
    [
        ("absolute", 2, (LayerExecution("unrolled", "dense"), *SCANNED)),
        ("decoder_and_convolution", 4, SCANNED),
    ],
    ids=["absolute", "decoder_and_convolution"],
)
def test_every_execution_gives_the_same_results_with_dropout(name, depth, forms):
    function, init = gradient_of(name, UNROLLED, depth=depth)
    params = random_parameters(init)
    expected, expected_grads = jax.jit(function)(params)
    for execution in forms:
        function, init = gradient_of(name, execution, depth=depth)
        assert jax.tree.structure(jax.eval_shape(init)) == jax.tree.structure(params)
        value, grads = jax.jit(function)(params)
        assert float(value) == pytest.approx(float(expected), rel=1e-5), execution
        for one, two in zip(jax.tree.leaves(grads), jax.tree.leaves(expected_grads), strict=True):
            np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-3, err_msg=str(execution))


def count(jaxpr, name, times=1):
    """How often a primitive is computed, with the iterations of loops."""
    total = 0
    for equation in jaxpr.eqns:
        inner = times * equation.params["length"] if equation.primitive.name == "scan" else times
        total += times * (equation.primitive.name == name)
        total += sum(count(each, name, inner) for each in jaxprs_in_params(equation.params))
    return total


def dots_and_gelus(name, execution):
    """Number of matrix products and of GELUs in a loss and its gradients."""
    function, init = gradient_of(name, execution)
    jaxpr = jax.make_jaxpr(function)(jax.eval_shape(init)).jaxpr
    return count(jaxpr, "dot_general"), count(jaxpr, "erf")


def test_each_policy_recomputes_what_it_should():
    dots, gelus = dots_and_gelus("decoder", UNROLLED)
    num_layers = DEPTH + 1  # the decoder runs twice
    assert gelus == 2 * num_layers  # GELU and its derivative
    counts = {remat: dots_and_gelus("decoder", LayerExecution("unrolled", remat)) for remat in REMAT}
    assert counts["none"] == (dots, gelus)
    assert counts["attention"][1] == counts["dense"][1] == counts["full"][1] == gelus + num_layers
    # "attention": scores of content, two terms of position. "dense" also recomputes the product with the
    # values. "full" also recomputes the eight products with parameters: queries and keys of the table and of
    # the row, values, and the three Dense layers.
    assert counts["attention"][0] - dots == 3 * num_layers
    assert counts["dense"][0] - dots == 4 * num_layers
    assert counts["full"][0] - dots == (4 + 8) * num_layers
    # A loop stores no GELU; the layer before the decoder's is the last in it.
    counts["none"] = (dots, gelus + DEPTH - 1)
    assert {remat: dots_and_gelus("decoder", LayerExecution("scanned", remat)) for remat in REMAT} == counts


def stacked_by_loops(jaxpr):
    """Shapes of the arrays that a loop stores for each layer; of the loop that stores the most."""
    found = [
        sorted(
            whole.aval.shape[1:]
            for whole, each in zip(equation.outvars, equation.params["jaxpr"].out_avals, strict=True)
            if whole.aval.shape != each.shape  # not what is carried from layer to layer
        )
        for equation in jaxpr.eqns
        if equation.primitive.name == "scan"
    ]
    inner = [stacked_by_loops(each) for equation in jaxpr.eqns for each in jaxprs_in_params(equation.params)]
    return max(found + inner, key=lambda shapes: sum(map(math.prod, shapes)), default=[])


def test_a_loop_stores_products_and_attention_weights_alone():
    num_rows, heads = 64, SHAPE["num_heads"]
    function, init = gradient_of("absolute", LayerExecution("scanned", "none"), num_rows)
    per_head = (num_rows, LENGTH, heads, WIDTH // heads)
    assert stacked_by_loops(jax.make_jaxpr(function)(jax.eval_shape(init)).jaxpr) == sorted(
        [
            *[per_head] * 4,  # queries, keys, values, context
            (num_rows, heads, LENGTH, LENGTH),
            *[(num_rows, LENGTH, WIDTH)] * 3,  # the layer's input and two products
            (num_rows, LENGTH, SHAPE["intermediate_size"]),
        ]
    )


def test_scanning_compiles_one_layer_and_policies_need_less_memory():
    def lowered(execution):
        function, init = gradient_of("absolute", execution, num_rows=64)
        return jax.jit(function).lower(jax.eval_shape(init))

    dots = {
        layers: lowered(LayerExecution(layers, "none")).as_text().count("stablehlo.dot_general")
        for layers in LAYERS
    }
    assert dots["unrolled"] > (DEPTH - 1) * dots["scanned"]
    memory = {
        remat: lowered(LayerExecution("scanned", remat)).compile().memory_analysis().temp_size_in_bytes
        for remat in REMAT
    }
    assert memory["full"] < 0.8 * memory["dense"] < 0.72 * memory["none"]
    assert memory["dense"] < memory["attention"] < memory["none"]


def test_unknown_values_are_rejected():
    with pytest.raises(
        ValueError,
        match=r"config\.train\.remat: got 'some', expected one of \('none', 'attention', 'dense', 'full'\)",
    ):
        LayerExecution("scanned", "some")
    with pytest.raises(ValueError, match=r"config\.train\.layers: got 'rolled'"):
        LayerExecution("rolled", "none")


def test_losses_of_scanned_layers_on_a_mesh_are_those_of_one_device(monkeypatch):
    monkeypatch.setattr(program, "make_optimizers", plain_descent())
    full = config()

    def scanned(section, **objective):
        model = make_pretraining_config(section, LayerExecution("scanned", "dense"))
        return make_electra_objective(model, objective, SPECIAL)

    *_, expected = run_steps(full, make_mesh({"data": 1, "fsdp": 1, "tensor": 1}, jax.devices()[:1]), 3)
    *_, windows = run_steps(full, make_mesh({"data": 2, "fsdp": 2, "tensor": 2}), 3, make=scanned)
    for ours, reference in zip(map(summarize, windows), map(summarize, expected), strict=True):
        assert abs(ours["mlm_loss"] - reference["mlm_loss"]) < 1e-5
        assert abs(ours["rtd_loss"] - reference["rtd_loss"]) < 1e-5
