"""ModernBERT's encoder and heads: equal to those of `transformers`, on packed rows and in every execution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax.traverse_util import flatten_dict, unflatten_dict
from transformers import ModernBertConfig, ModernBertForMaskedLM, ModernBertForTokenClassification

from configs import modernbert
from electra_jax.models.config import EncoderConfig, make_encoder_config, make_pretraining_config
from electra_jax.models.execution import UNROLLED, LayerExecution
from electra_jax.models.flops import encoder_flops
from electra_jax.models.global_attention import LONGEST_WHOLE
from electra_jax.models.initializers import ROTARY_BONUS
from electra_jax.models.inputs import derive_inputs
from electra_jax.models.layers import gated_gelu
from electra_jax.models.local_attention import block_size
from electra_jax.models.modern_encoder import ModernEncoder
from electra_jax.models.pretraining import PretrainingModel
from electra_jax.models.rotary import make_rotations, rotate
from electra_jax.training.state import unbox
from support.tiny import SPECIAL, key, modern_section, rows

VOCABULARY, NUM_LAYERS = 96, 5  # layers 0 and 3 are global
LAYER_NAMES = {
    "attn_norm": "attention_LayerNorm/scale",
    "attn.Wo": "attention/output/kernel",
    "mlp_norm": "mlp_LayerNorm/scale",
    "mlp.Wo": "output/kernel",
}
MODULE_NAMES = {
    "model.embeddings.tok_embeddings.weight": "{}_embeddings/word_embeddings/embedding",
    "model.embeddings.norm.weight": "{}_embeddings/LayerNorm/scale",
    "model.final_norm.weight": "{}/final_LayerNorm/scale",
    "head.dense.weight": "{}_predictions/dense/kernel",
    "head.norm.weight": "{}_predictions/LayerNorm/scale",
    "decoder.bias": "{}_predictions/bias",
    "classifier.weight": "{}_predictions/dense_prediction/kernel",
    "classifier.bias": "{}_predictions/dense_prediction/bias",
}


def from_torch(module, role, heads):
    """Parameters of ours, by paths, from a module of `transformers`."""
    found = {}
    for name, tensor in module.named_parameters():
        array = tensor.detach().numpy()
        if not name.startswith("model.layers."):
            is_kernel = array.ndim == 2 and "embeddings" not in name
            found[MODULE_NAMES[name].format(role)] = array.T if is_kernel else array
            continue
        layer, name = name.removeprefix("model.layers.").removesuffix(".weight").split(".", 1)
        path = f"{role}/layer_{layer}/"
        if name == "attn.Wqkv":
            for part, kernel in zip(("query", "key", "value"), np.split(array, 3), strict=True):
                shape = (array.shape[1], heads, array.shape[1] // heads)
                found[f"{path}attention/{part}/kernel"] = kernel.T.reshape(shape)
        elif name == "mlp.Wi":
            for part, kernel in zip(("intermediate", "gate"), np.split(array, 2), strict=True):
                found[f"{path}{part}/kernel"] = kernel.T
        else:
            found[path + LAYER_NAMES[name]] = array.T
    return found


def make_pair(size, num_layers):
    """The two modules of `transformers` with random parameters, our model, and its parameters."""
    torch.manual_seed(0)
    model = modernbert.get_config(f"size={size}").model.to_dict() | {"vocab_size": VOCABULARY}
    model["rotary"]["global_theta"] = 160_000.0
    shape = model["discriminator"] | {"num_layers": num_layers}
    model |= {"embedding_sharing": "none", "generator": shape, "discriminator": shape}
    theirs = ModernBertConfig(
        vocab_size=VOCABULARY,
        hidden_size=shape["hidden_size"],
        intermediate_size=shape["intermediate_size"],
        num_hidden_layers=num_layers,
        num_attention_heads=shape["num_heads"],
        pad_token_id=SPECIAL.pad,
        cls_token_id=SPECIAL.cls,
        sep_token_id=SPECIAL.sep,
        bos_token_id=SPECIAL.cls,
        eos_token_id=SPECIAL.sep,
        global_rope_theta=160_000.0,
        local_rope_theta=10_000.0,
        num_labels=1,
        attn_implementation="eager",
    )
    modules, params = {}, {}
    for role, make in (
        ("generator", ModernBertForMaskedLM),
        ("discriminator", ModernBertForTokenClassification),
    ):
        modules[role] = make(theirs).eval()
        with torch.no_grad():
            for name, tensor in modules[role].named_parameters():
                scale = 0.3 if tensor.ndim == 1 else tensor.shape[1] ** -0.5
                tensor.copy_(torch.randn_like(tensor) * scale + float("norm" in name))
        params |= from_torch(modules[role], role, shape["num_heads"])
    return modules, PretrainingModel(make_pretraining_config(model)), unflatten_dict(params, sep="/")


@pytest.mark.parametrize(
    ("size", "num_layers", "lengths"),
    [("17m", NUM_LAYERS, (16, 200, 1024)), ("base", 2, (200,))],
    ids=["17m", "base"],
)
def test_encoders_and_heads_are_those_of_transformers(size, num_layers, lengths):
    modules, model, params = make_pair(size, num_layers)
    apply = jax.jit(
        lambda params, ids_BL, inputs, positions_BP: model.apply(
            {"params": params}, ids_BL, inputs, positions_BP
        )
    )
    for length in lengths:
        num_rows = 1 if length > 500 else 2
        ids = np.random.default_rng(length).integers(5, VOCABULARY, (num_rows, length))
        ids[-1, length - length // 4 :] = SPECIAL.pad
        inputs = derive_inputs(jnp.asarray(ids, jnp.int32), SPECIAL, 0)
        positions_BP = np.tile(np.arange(length), (num_rows, 1))
        factors, detected = apply(params, ids, inputs, positions_BP)
        predicted = (
            np.asarray(factors.x_BPE) @ np.asarray(factors.table_VE).T
            + np.asarray(factors.bias_V)[None, None]
        )
        is_token = ids != SPECIAL.pad
        given = {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(is_token).long()}
        with torch.no_grad():
            expected = modules["generator"](**given).logits.numpy()
            expected_detected = modules["discriminator"](**given).logits.numpy()[..., 0]
        np.testing.assert_allclose(predicted[is_token], expected[is_token], rtol=0, atol=2e-5)
        np.testing.assert_allclose(detected[is_token], expected_detected[is_token], rtol=0, atol=2e-5)


def encoder_of(**changes) -> EncoderConfig:
    section = modern_section()
    own = section.pop("discriminator")
    for name in ("generator", "embedding_sharing"):
        del section[name]
    return make_encoder_config(section | own | changes)


def make_encoder(config, execution=UNROLLED):
    """(module, its parameters away from their initial values)"""
    encoder = ModernEncoder(config, execution)
    inputs = derive_inputs(jnp.asarray(rows(1)), SPECIAL, 0)
    x_BLD = jnp.zeros((*inputs.segments_BL.shape, config.hidden_size))
    params = unbox(jax.jit(lambda: encoder.init(key(), x_BLD, inputs, False)["params"])())
    noisy = {
        path: leaf + 0.1 * np.random.default_rng(index).normal(size=leaf.shape).astype(np.float32)
        for index, (path, leaf) in enumerate(flatten_dict(jax.device_get(params)).items())
    }
    return encoder, unflatten_dict(noisy)


def test_packed_documents_get_what_they_get_alone():
    config = encoder_of()
    encoder, params = make_encoder(config)
    apply = jax.jit(lambda x_BLD, inputs: encoder.apply({"params": params}, x_BLD, inputs, False))
    # Longer than the keys of a block; document borders within blocks and at the end of one.
    lengths, total = (40, 88, 30, 30), 200
    packed = np.zeros((1, total), np.int32)
    packed[0, : sum(lengths)] = np.concatenate([[SPECIAL.cls] + [9] * (length - 1) for length in lengths])
    x_BLD = np.random.default_rng(3).normal(size=(1, total, config.hidden_size)).astype(np.float32)
    got = np.asarray(apply(x_BLD, derive_inputs(jnp.asarray(packed), SPECIAL, 0)))
    alone, states = np.zeros((len(lengths), total), np.int32), np.zeros((len(lengths), *x_BLD.shape[1:]))
    starts = np.cumsum([0, *lengths])
    for row, (start, length) in enumerate(zip(starts, lengths, strict=False)):
        alone[row, :length] = packed[0, start : start + length]
        states[row, :length] = x_BLD[0, start : start + length]
    expected = np.asarray(apply(states.astype(np.float32), derive_inputs(jnp.asarray(alone), SPECIAL, 0)))
    for row, (start, length) in enumerate(zip(starts, lengths, strict=False)):
        np.testing.assert_allclose(got[0, start : start + length], expected[row, :length], rtol=0, atol=1e-5)


# 6 layers: the first, two periods in a loop, and one that is left.
def test_a_loop_over_periods_gives_the_same_with_dropout():
    rotary = modern_section()["rotary"] | {"global_attention_every": 2, "attention_output_dropout": 0.1}
    config = encoder_of(num_layers=6, attention_dropout=0.1, hidden_dropout=0.1, rotary=rotary)
    _, params = make_encoder(config)
    inputs = derive_inputs(jnp.asarray(np.tile(rows(4), (1, 7))), SPECIAL, 0)
    assert inputs.segments_BL.shape[1] > block_size(rotary["window"] // 2) + rotary["window"]  # in blocks
    x_BLD, target_BLD = (
        np.random.default_rng(3).normal(size=(2, *inputs.segments_BL.shape, 32)).astype(np.float32)
    )

    def loss_of(execution):
        encoder = ModernEncoder(config, execution)

        def loss(params):
            y_BLD = encoder.apply({"params": params}, x_BLD, inputs, True, rngs={"dropout": key(2)})
            return (y_BLD * target_BLD).sum()

        return jax.jit(jax.value_and_grad(loss))(params)

    expected = loss_of(UNROLLED)
    for layers, remat in (("scanned", "dense"), ("unrolled", "attention"), ("scanned", "full")):
        got = loss_of(LayerExecution(layers, remat))
        for one, two in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-3)


def test_a_product_of_rotated_vectors_depends_on_their_distance_alone():
    config = encoder_of()
    positions_BL = jnp.arange(128)[None]
    query, key_ = np.random.default_rng(0).normal(size=(2, config.head_size)).astype(np.float32)
    repeat = lambda x: jnp.tile(x[None, None, None], (1, 128, 1, 1))

    def both(positions_BL):
        rotation = make_rotations(config, positions_BL).global_layers
        return rotate(repeat(query), rotation)[0, :, 0], rotate(repeat(key_), rotation)[0, :, 0]

    chosen = jnp.asarray([3, 10, 103, 110])
    queries, keys = (np.asarray(each[chosen]) for each in jax.jit(both)(positions_BL))
    assert queries[0] @ keys[1] == pytest.approx(queries[2] @ keys[3], abs=1e-4)
    assert abs(queries[0] @ keys[0] - queries[0] @ keys[1]) > 0.1
    np.testing.assert_allclose(np.linalg.norm(queries, axis=1), np.linalg.norm(query), rtol=1e-5)
    # Position p rotates the pair (t, t + K/2) by p · θ^(−2t/K).
    pair = np.array([1, 1 + config.head_size // 2])
    angle = 3 * config.rotary.global_theta ** (-2 / config.head_size)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    np.testing.assert_allclose(queries[0][pair], turn @ query[pair], rtol=1e-5)


def test_a_cpu_looks_cosines_up_and_other_devices_compute_the_same():
    config = encoder_of()
    traced = jax.jit(lambda positions_BL: make_rotations(config, positions_BL)).trace(jnp.arange(64)[None])
    assert "cosine" not in traced.lower(lowering_platforms=("cpu",)).as_text()
    assert "cosine" in traced.lower(lowering_platforms=("tpu",)).as_text()
    angle_LT = np.arange(64)[:, None] * config.rotary.global_theta ** -(
        np.arange(0, config.head_size, 2) / config.head_size
    )
    rotation = make_rotations(config, jnp.arange(64)[None]).global_layers
    np.testing.assert_allclose(rotation.cos_BLT[0], np.cos(angle_LT), atol=5e-6)
    np.testing.assert_allclose(rotation.sin_BLT[0], np.sin(angle_LT), atol=5e-6)


def test_derivatives_are_those_of_plain_differentiation():
    x_BLHK, gate_BLHK, target_BLHK = np.random.default_rng(0).normal(size=(3, 2, 5, 2, 8)).astype(np.float32)
    positions_BL = jnp.asarray([[0, 1, 2, 3, 4], [0, 1, 0, 1, 2]])

    def plain(x_BLHK, gate_BLHK):
        angle_BL1T = (positions_BL[:, :, None] * 100.0 ** (-np.arange(0, 8, 2) / 8)[None, None])[:, :, None]
        pairs = jax.lax.complex(x_BLHK[..., :4], x_BLHK[..., 4:])
        turned = pairs * jnp.exp(jax.lax.complex(jnp.zeros_like(angle_BL1T), angle_BL1T))
        rotated = jnp.concatenate([turned.real, turned.imag], axis=-1)
        return rotated, jax.nn.gelu(x_BLHK, approximate=False) * gate_BLHK

    def ours(x_BLHK, gate_BLHK):
        rotary = modern_section()["rotary"] | {"global_theta": 100.0}
        config = encoder_of(rotary=rotary, num_heads=4)  # heads of 8
        rotation = make_rotations(config, positions_BL).global_layers
        return rotate(x_BLHK, rotation), gated_gelu(x_BLHK, gate_BLHK)

    def results(function):
        loss = lambda *arrays: sum((each * target_BLHK).sum() for each in function(*arrays))
        arrays = x_BLHK, gate_BLHK
        return jax.jit(lambda *arrays: (function(*arrays), jax.grad(loss, (0, 1))(*arrays)))(*arrays)

    for one, two in zip(jax.tree.leaves(results(ours)), jax.tree.leaves(results(plain)), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-5, atol=2e-6)


def test_only_global_layers_of_short_rows_hold_a_score_for_each_pair_of_tokens():
    def quadratic_arrays(num_layers, length=LONGEST_WHOLE):
        """Arrays of a score for each pair of tokens, in the program of a loss and its gradients."""
        rotary = modern_section()["rotary"] | {"global_attention_every": 4, "window": 128}
        encoder = ModernEncoder(encoder_of(num_layers=num_layers, rotary=rotary))
        inputs = derive_inputs(jnp.full((1, length), 9, jnp.int32), SPECIAL, 0)
        x_BLD = jax.ShapeDtypeStruct((1, length, 32), jnp.float32)
        params = unbox(jax.eval_shape(lambda x: encoder.init(key(), x, inputs, False)["params"], x_BLD))
        loss = lambda params, x_BLD: encoder.apply({"params": params}, x_BLD, inputs, False).sum()
        return str(jax.make_jaxpr(jax.grad(loss))(params, x_BLD)).count(f"{length},{length}]")

    assert quadratic_arrays(1) > 0
    assert quadratic_arrays(4) == quadratic_arrays(1)  # three local layers add none
    assert quadratic_arrays(4, length=2 * LONGEST_WHOLE) == 0


def test_flops_are_those_of_the_window():
    config = encoder_of(num_layers=4, rotary=modern_section()["rotary"] | {"window": 128})
    width, inner = config.hidden_size, config.intermediate_size
    products = 4 * (8 * width**2 + 6 * width * inner)
    assert encoder_flops(config, 1024) == products + 4 * width * (2 * 1024 + 2 * 129)
    assert encoder_flops(config, 64) == products + 4 * width * 4 * 64


def test_local_initial_values_make_heads_of_the_first_layer_attend_to_neighbours():
    section = modern_section(initializer="local", vocab_size=512)
    wide = {"hidden_size": 128, "num_heads": 2, "intermediate_size": 128, "num_layers": 1}
    section |= {"embedding_size": 128, "embedding_sharing": "none", "generator": wide, "discriminator": wide}
    config = make_pretraining_config(section)
    model, length = PretrainingModel(config), 24
    ids_BL = np.random.default_rng(0).integers(5, 512, (1, length)).astype(np.int32)
    inputs = derive_inputs(jnp.asarray(ids_BL), SPECIAL, 0)

    def scores():
        params = unbox(model.init(key(), ids_BL, inputs, np.zeros((1, 1), np.int32))["params"])
        table_VE = params["generator_embeddings"]["word_embeddings"]["embedding"]
        x_LE = table_VE[ids_BL[0]]
        x_LE = (x_LE - x_LE.mean(1, keepdims=True)) / x_LE.std(1, keepdims=True)
        attention = params["generator"]["layer_0"]["attention"]
        rotation = make_rotations(config.generator, inputs.positions_BL).global_layers
        query, key_ = (
            rotate(jnp.einsum("LD,DHK->LHK", x_LE, attention[role]["kernel"])[None], rotation)[0]
            for role in ("query", "key")
        )
        return jnp.einsum("LHK,MHK->HLM", query, key_) / np.sqrt(config.generator.head_size)

    scores_HLM = np.asarray(jax.jit(scores)())
    weights_HLM = np.asarray(jax.nn.softmax(scores_HLM, axis=-1))
    middle = np.arange(1, length - 1)
    assert weights_HLM[0, middle, middle - 1].mean() > 0.6
    assert weights_HLM[1, middle, middle + 1].mean() > 0.6
    assert scores_HLM[0, middle, middle - 1].mean() == pytest.approx(ROTARY_BONUS, abs=3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"window": 7}, r"config\.model\.rotary\.window"),
        ({"global_attention_every": 0}, r"rotary\.global_attention_every: got 0, expected 1"),
        ({"local_theta": 0.5}, r"config\.model\.rotary\.local_theta"),
        ({"attention_output_dropout": 1.0}, r"rotary\.attention_output_dropout"),
    ],
    ids=["window", "global_attention_every", "local_theta", "dropout"],
)
def test_settings_out_of_range_are_errors(changes, message):
    with pytest.raises(ValueError, match=message):
        encoder_of(rotary=modern_section()["rotary"] | changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rotary": None}, "model.rotary: got None, expected a section if config.model.position is 'rotary'"),
        ({"embedding_size": 16}, r"embedding_size: got 16, expected hidden_size \(32\).*ModernBERT"),
        ({"type_vocab_size": 2}, r"type_vocab_size: got 2, expected 0"),
        ({"num_heads": 32}, r"hidden_size: got 32, expected a multiple of 2 · num_heads \(64\)"),
    ],
    ids=["no section", "embedding_size", "type_vocab_size", "odd heads"],
)
def test_what_the_family_needs_is_checked(changes, message):
    with pytest.raises(ValueError, match=message):
        encoder_of(**changes)
