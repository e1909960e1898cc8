"""The relative bias: buckets, attention, initialisation, scanned layers, meshes, and its configuration."""

import dataclasses
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import linen as nn
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.extend.core import jaxprs_in_params
from transformers.models.t5.modeling_t5 import T5Attention

from configs import debug, mcl
from electra_jax.configuration.migration import upgrade_encoder
from electra_jax.configuration.sizes import with_assumed_sizes
from electra_jax.distributed.mesh import make_mesh
from electra_jax.distributed.sharding import axis_context, batch_sharding, param_shardings
from electra_jax.huggingface.published_models import PublishedModule
from electra_jax.models.attention import SelfAttention
from electra_jax.models.config import (
    RelativeBiasConfig,
    encoder_shape,
    make_encoder_config,
    make_pretraining_config,
)
from electra_jax.models.execution import UNROLLED, LayerExecution
from electra_jax.models.initializers import NEIGHBOUR_BONUS
from electra_jax.models.inputs import derive_inputs
from electra_jax.models.pretraining import make_encoder
from electra_jax.models.relative_bias import RelativeBias, bucket_edges, bucket_rows
from electra_jax.runs.directory import check_run_directory
from electra_jax.training.optimizer import effective_groups
from electra_jax.training.state import unbox
from support.tiny import LENGTH, SPECIAL, electra, key, model_section, relative_section, rows

ARRAY = np.asarray


def bias_config(num_buckets, max_distance, positions=True):
    return RelativeBiasConfig(
        num_buckets=num_buckets, max_distance=max_distance, position_biased_input=positions
    )


def bucket_by_formula(distance, num_buckets, max_distance):
    """The module's formula, one distance at a time, in floating point."""
    side = num_buckets // 2
    exact = side // 2
    if abs(distance) < exact:
        return distance
    share = math.log(abs(distance) / exact) / math.log((max_distance - 1) / exact)
    return int(math.copysign(min(side - 1, exact + math.ceil(share * (side - 1 - exact))), distance))


# COCO-LM's settings, and others in which no logarithm is a whole number, except at max_distance − 1.
@pytest.mark.parametrize(
    ("num_buckets", "max_distance"), [(32, 128), (64, 128), (128, 256), (12, 14), (8, 12), (4, 3), (6, 128)]
)
def test_buckets_by_formula(num_buckets, max_distance):
    got = bucket_rows(bias_config(num_buckets, max_distance), 600)
    expected = [
        bucket_by_formula(r, num_buckets, max_distance) + num_buckets // 2 - 1 for r in range(-599, 600)
    ]
    np.testing.assert_array_equal(got, expected)
    assert got.min() == 0 and got.max() == num_buckets - 2


# microsoft/COCO-LM, relative_position_bucket for 32 buckets and distance 128, computed by hand.
def test_buckets_by_hand():
    distances = {
        0: 0,
        1: 1,
        7: 7,
        8: 8,
        9: 9,
        11: 9,
        12: 10,
        17: 10,
        18: 11,
        26: 11,
        27: 12,
        38: 12,
        39: 13,
        57: 13,
        58: 14,
        85: 14,
        86: 15,
        127: 15,
        128: 15,
        511: 15,
    }
    rows_T = bucket_rows(bias_config(32, 128), 512)
    for distance, bucket in distances.items():
        assert rows_T[511 + distance] == 15 + bucket and rows_T[511 - distance] == 15 - bucket
    # Edges such as 2 · 16^(k/4) are whole numbers, which rounded logarithms would miss.
    assert bucket_edges(bias_config(16, 65)) == (0, 1, 2, 3, 4, 10, 25)
    assert bucket_edges(bias_config(16, 33)) == (0, 1, 2, 3, 4, 8, 16)


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 40), st.integers(0, 300), st.integers(1, 200))
def test_buckets_are_in_the_order_of_distances(half, beyond, length):
    config = bias_config(2 * half, half // 2 + 2 + beyond)
    rows_T = bucket_rows(config, length)
    assert (np.diff(rows_T) >= 0).all() and (rows_T + rows_T[::-1] == 2 * (half - 1)).all()
    exact = min(half // 2, length - 1)
    np.testing.assert_array_equal(rows_T[length - 1 : length + exact], half - 1 + np.arange(exact + 1))


def test_difference_from_t5():
    """Near distances differ only in the half of the table, far ones are rounded the other way."""
    distances = np.arange(-300, 301)
    theirs = T5Attention._relative_position_bucket(
        torch.from_numpy(distances), num_buckets=32, max_distance=128
    ).numpy()
    sides = np.where(distances > 0, theirs - 16, -theirs)
    ours = bucket_rows(bias_config(32, 128), 301) - 15
    assert (sides[abs(distances) <= 8] == ours[abs(distances) <= 8]).all()
    assert set((abs(ours) - abs(sides))[abs(distances) > 8]) == {0, 1}


def random_params(init):
    """Random arrays with the shapes that `init` would return; nothing is compiled."""
    draw = np.random.default_rng(0).normal
    shapes = unbox(jax.eval_shape(lambda: init()["params"]))
    return jax.tree.map(lambda leaf: draw(scale=0.3, size=leaf.shape).astype(np.float32), shapes)


def attention_by_hand(params, bias_NH, x_BLD, segments_BL, relative):
    """NumPy loops over batch, heads, queries and keys."""
    out, middle = np.zeros(x_BLD.shape), relative.num_buckets // 2 - 1
    project = lambda role, x: np.einsum("LD,DHK->LHK", x, params[role]["kernel"]) + params[role]["bias"]
    for b, x_LD in enumerate(x_BLD):
        query, keys, value = (project(role, x_LD) for role in ("query", "key", "value"))
        context = np.zeros(query.shape)
        for h in range(query.shape[1]):
            for i in range(len(x_LD)):
                scores = np.full(len(x_LD), -np.inf)
                for j in range(len(x_LD)):
                    if segments_BL[b, i] == segments_BL[b, j]:
                        row = middle + bucket_by_formula(j - i, relative.num_buckets, relative.max_distance)
                        scores[j] = query[i, h] @ keys[j, h] / math.sqrt(query.shape[2]) + bias_NH[row, h]
                weights = np.exp(scores - scores.max())
                context[i, h] = weights @ value[:, h] / weights.sum()
        out[b] = context.reshape(len(x_LD), -1) @ params["output"]["kernel"] + params["output"]["bias"]
    return out


def test_attention_by_hand():
    config = make_pretraining_config(relative_section()).discriminator
    segments = np.asarray([[1] * 9 + [2] * 12 + [0] * 3, [1] * 24], np.int32)
    inputs = derive_inputs(jnp.asarray(rows(2)), SPECIAL, 2)._replace(segments_BL=jnp.asarray(segments))
    x = np.random.default_rng(0).normal(size=(2, LENGTH, 32)).astype(np.float32)
    bias, attention = RelativeBias(config), SelfAttention(config, is_first_layer=False)
    params = random_params(lambda: attention.init(key(), jnp.asarray(x), inputs, False))
    bias_NH = (
        np.random.default_rng(1)
        .normal(size=(config.relative_bias.num_buckets, config.num_heads))
        .astype(np.float32)
    )
    bias_HLM = bias.apply({"params": {"embedding": bias_NH}}, LENGTH)
    expected = attention_by_hand(params, bias_NH, x, segments, config.relative_bias)
    got = jax.jit(lambda *a: attention.apply({"params": params}, *a[:2], False, a[2]))(x, inputs, bias_HLM)
    np.testing.assert_allclose(got, expected, atol=2e-5)
    low = dataclasses.replace(config, dtype="bfloat16")
    assert RelativeBias(low).apply({"params": {"embedding": bias_NH}}, LENGTH).dtype == jnp.float32
    got = jax.jit(lambda *a: SelfAttention(low, False).apply({"params": params}, *a[:2], False, a[2]))(
        x, inputs, bias_HLM
    )
    np.testing.assert_allclose(got.astype(jnp.float32), expected, atol=0.1)


def test_the_gradient_is_that_of_indexing_but_scatters_less():
    config = make_pretraining_config(relative_section()).discriminator
    rows_T = bucket_rows(config.relative_bias, LENGTH)
    place = np.arange(LENGTH)
    index_LM = rows_T[place[None, :] - place[:, None] + LENGTH - 1]
    weights_HLM = np.random.default_rng(0).normal(size=(config.num_heads, LENGTH, LENGTH)).astype(np.float32)
    expected = np.zeros((config.relative_bias.num_buckets, config.num_heads))
    for head in range(config.num_heads):
        np.add.at(expected[:, head], index_LM, weights_HLM[head])
    loss = lambda table: (
        RelativeBias(config).apply({"params": {"embedding": table}}, LENGTH) * weights_HLM
    ).sum()
    grad = jax.grad(loss)
    np.testing.assert_allclose(grad(jnp.zeros(expected.shape)), expected, atol=1e-4)
    scattered = list(scattered_shapes(jax.make_jaxpr(grad)(jnp.zeros(expected.shape)).jaxpr))
    assert scattered == [(2 * LENGTH, config.num_heads)]  # never [L, M]


def scattered_shapes(jaxpr):
    """Shapes of the updates of all scatters in a program."""
    for equation in jaxpr.eqns:
        if equation.primitive.name.startswith("scatter"):
            yield equation.invars[2].aval.shape
        for inner in jaxprs_in_params(equation.params):
            yield from scattered_shapes(inner)


@pytest.mark.parametrize("positions", [True, False])
def test_packed_documents_give_the_same_as_alone(positions):
    config = make_pretraining_config(relative_section(positions)).discriminator
    model, ids = PublishedModule(config, "discriminator"), rows(1)
    inputs = derive_inputs(jnp.asarray(ids), SPECIAL, 2)
    params = random_params(lambda: model.init(key(), jnp.asarray(ids), inputs))
    assert ("position_embeddings" in params["embeddings"]) == positions
    assert params["encoder"]["relative_bias"]["embedding"].shape == (12, config.num_heads)
    second, end = int(np.flatnonzero(ids[0] == 1)[1]), int(np.flatnonzero(ids[0])[-1]) + 1

    @jax.jit
    def judge(ids):
        return model.apply({"params": params}, ids, derive_inputs(ids, SPECIAL, 2))

    packed = ARRAY(judge(ids))
    alone = np.zeros_like(ids)
    alone[0, : end - second] = ids[0, second:end]
    np.testing.assert_allclose(packed[0, second:end], ARRAY(judge(alone))[0, : end - second], atol=1e-5)
    swapped = ids.copy()
    swapped[0, [second + 1, second + 2]] = ids[0, [second + 2, second + 1]]
    assert ids[0, second + 1] != ids[0, second + 2]
    others = [second, *range(second + 3, end)]
    assert np.abs(ARRAY(judge(swapped)) - packed)[0, others].max() > 2e-4  # the order matters


def gradient_of(execution, mesh=None):
    """(loss with dropout, gradients) of an encoder whose parameters are sharded over the mesh."""
    shape = encoder_shape(32, 2) | {"num_heads": 2}
    section = relative_section(
        embedding_size=32, hidden_dropout=0.1, attention_dropout=0.1, discriminator=shape, generator=shape
    )
    encoder = make_encoder(make_pretraining_config(section).discriminator, execution)
    inputs = derive_inputs(jnp.asarray(rows(8)), SPECIAL, 2)
    x_BLD, target_BLD = np.random.default_rng(0).normal(size=(2, 8, LENGTH, 32)).astype(np.float32)
    boxed = jax.eval_shape(lambda: encoder.init(key(), jnp.asarray(x_BLD), inputs, False)["params"])
    axes, params = (
        nn.get_partition_spec(boxed),
        random_params(lambda: encoder.init(key(), jnp.asarray(x_BLD), inputs, False)),
    )

    def loss(params, x_BLD):
        return (
            encoder.apply({"params": params}, x_BLD, inputs, True, rngs={"dropout": key(2)}) * target_BLD
        ).sum()

    if mesh is None:
        return jax.jit(jax.value_and_grad(loss))(params, x_BLD)
    shardings = param_shardings(params, axes, mesh)
    assert str(shardings["relative_bias"]["embedding"].spec) == "P(None, 'tensor')"
    with axis_context(mesh):
        step = jax.jit(jax.value_and_grad(loss), in_shardings=(shardings, batch_sharding(mesh)))
        return step(jax.device_put(params, shardings), x_BLD)


def test_scanned_layers_on_a_mesh_compute_the_same_with_dropout():
    expected, expected_grads = gradient_of(UNROLLED)
    value, grads = gradient_of(
        LayerExecution("scanned", "full"), make_mesh({"data": 2, "fsdp": 2, "tensor": 2})
    )
    assert float(value) == pytest.approx(float(expected), rel=1e-5)
    for one, two in zip(jax.tree.leaves(grads), jax.tree.leaves(expected_grads), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-3)
    assert np.abs(expected_grads["relative_bias"]["embedding"]).max() > 0.1


def test_local_initialisation():
    """The table favours neighbours; if absolute positions are added to the input, the projections do."""
    place, x_BLD = np.arange(LENGTH), jnp.zeros((1, LENGTH, 32))
    inputs = derive_inputs(jnp.asarray(rows(1)), SPECIAL, 2)
    for positions in (True, False):
        section = relative_section(positions, initializer="local", embedding_size=32)
        config = make_pretraining_config(section).discriminator
        bias_HLM, params = RelativeBias(config).init_with_output(key(), LENGTH)
        greatest = np.abs(unbox(params)["params"]["embedding"]).max()
        kernel_DHK = unbox(SelfAttention(config, is_first_layer=True).init(key(), x_BLD, inputs, False))[
            "params"
        ]["key"]["kernel"]
        if positions:
            assert greatest <= 2 * config.initializer_range
            np.testing.assert_allclose(jnp.diagonal(kernel_DHK[::8, 0, ::2]), 1.0, atol=0.05)
        else:
            assert greatest > NEIGHBOUR_BONUS - 0.1 and np.abs(kernel_DHK).max() < 0.9
            nearest = ARRAY(bias_HLM.argmax(-1)) - place[None]
            assert (nearest[::2, 1:] == -1).all() and (nearest[1::2, :-1] == 1).all()


def test_it_has_no_weight_decay_and_its_encoders_learning_rate():
    config = debug.get_config("model=mcl").to_dict()
    objective = electra(relative_section())
    params = unbox(jax.eval_shape(lambda: objective.init(key(), LENGTH)))
    groups = effective_groups(params, config["optimizer"] | {"discriminator_learning_rate": 1e-3})
    assert groups["generator"]["relative_bias"]["embedding"][1:] == (1.0, 0.0)
    assert groups["discriminator"]["relative_bias"]["embedding"][1:] == (0.5, 0.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_buckets": 7}, r"config\.model\.relative_bias\.num_buckets"),
        ({"num_buckets": 2}, "an even number, 4 or more"),
        (
            {"max_distance": 4},
            r"relative_bias\.max_distance: got 4, expected more than num_buckets/4 \+ 1 \(4\)",
        ),
    ],
)
def test_wrong_values_name_the_key(changes, message):
    section = relative_section()
    with pytest.raises(ValueError, match=message):
        make_pretraining_config(section | {"relative_bias": section["relative_bias"] | changes})


def test_the_section_must_match_the_position():
    for section in (relative_section(position="absolute"), relative_section(relative_bias=None)):
        with pytest.raises(
            ValueError,
            match=r"relative_bias.*if config\.model\.position is 'relative_bias', else None .*another recipe",
        ):
            make_pretraining_config(section)


def test_configurations_from_before_relative_biases_are_read(tmp_path):
    section = model_section()
    old = {name: value for name, value in section.items() if name != "relative_bias"}
    config = make_pretraining_config(section)
    assert make_pretraining_config(upgrade_encoder(old)) == config
    (tmp_path / "config.json").write_text(json.dumps({"config": {"model": old}}))
    check_run_directory(tmp_path, {"config": {"model": section}})  # such a run can be resumed
    with pytest.raises(ValueError, match="belongs to a run with other settings"):
        check_run_directory(tmp_path, {"config": {"model": relative_section()}})
    encoder = json.loads(json.dumps(dataclasses.asdict(config.discriminator)))
    del encoder["relative_bias"]
    assert make_encoder_config(upgrade_encoder(encoder)) == config.discriminator
    saved = json.loads(
        json.dumps(dataclasses.asdict(make_pretraining_config(relative_section()).discriminator))
    )
    assert make_encoder_config(saved) == make_pretraining_config(relative_section()).discriminator


def test_recipes_of_mcl():
    base, tiny, small = (
        with_assumed_sizes(mcl.get_config(f"size={size}").to_dict()) for size in ("base", "tiny", "small")
    )
    config = make_pretraining_config(base["model"])
    assert (config.discriminator.num_layers, config.generator.num_layers) == (12, 4)
    assert {encoder.hidden_size for encoder in (config.discriminator, config.generator)} == {768}
    assert base | {"train": base["train"] | {"batch_size": 512}} == tiny
    assert make_pretraining_config(small["model"]).generator.num_layers == 4
    with pytest.raises(ValueError, match=r"size: got 'large', expected one of \['base', 'small', 'tiny'\]"):
        mcl.get_config("size=large")
