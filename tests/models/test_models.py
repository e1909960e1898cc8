"""Encoders and heads against `transformers`, published sizes, and packed documents."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from flax import linen as nn

from configs import electra as electra_config
from electra_jax.configuration.sizes import with_assumed_sizes
from electra_jax.models.ablations import TwoTowerModel
from electra_jax.models.config import make_pretraining_config
from electra_jax.models.embeddings import Embeddings
from electra_jax.models.encoder import Encoder
from electra_jax.models.inputs import derive_inputs
from electra_jax.models.pretraining import PretrainingModel
from support.random_parameters import random_parameters
from support.tiny import LENGTH, SPECIAL, key, model_section, relative_section, rows


def init_params(config, length=LENGTH, make=PretrainingModel):
    """Random parameters, also of biases and LayerNorms, so that a missing one is noticed."""
    ids = jnp.asarray(rows(2, length))
    inputs, model = derive_inputs(ids, SPECIAL, 2), make(config)
    return random_parameters(lambda: model.init(key(), ids, inputs, jnp.zeros((2, 1), int))["params"])


def torch_weights(encoder, embeddings, head, head_name):
    """state_dict of transformers' ELECTRA from our parameters: kernels transposed, heads flattened."""
    out = {}

    def put(name, tree):
        for leaf, value in tree.items():
            value = np.asarray(value)
            if leaf == "kernel":
                value = value.reshape(value.shape[0], -1).T
            torch_leaf = {"kernel": "weight", "scale": "weight", "embedding": "weight"}.get(leaf, leaf)
            out[f"{name}.{torch_leaf}"] = torch.from_numpy(
                value.reshape(-1).copy() if leaf == "bias" else value.copy()
            )

    for name, tree in embeddings.items():
        put(f"electra.embeddings.{name}", tree)
    names = {"query": "attention.self.query", "key": "attention.self.key", "value": "attention.self.value"}
    for name, tree in encoder.items():
        if name == "embeddings_project":
            put("electra.embeddings_project", tree)
            continue
        layer = f"electra.encoder.layer.{name.removeprefix('layer_')}"
        for part in ("query", "key", "value"):
            put(f"{layer}.{names[part]}", tree["attention"][part])
        put(f"{layer}.attention.output.dense", tree["attention"]["output"])
        put(f"{layer}.attention.output.LayerNorm", tree["attention_LayerNorm"])
        put(f"{layer}.intermediate.dense", tree["intermediate"])
        put(f"{layer}.output.dense", tree["output"])
        put(f"{layer}.output.LayerNorm", tree["output_LayerNorm"])
    for name, tree in head.items():
        if name == "bias":
            out["generator_lm_head.bias"] = torch.from_numpy(np.asarray(tree).copy())
        else:
            put(f"{head_name}.{name}", tree)
    return out


def transformers_config(encoder):
    return transformers.ElectraConfig(
        vocab_size=encoder.vocab_size,
        embedding_size=encoder.embedding_size,
        hidden_size=encoder.hidden_size,
        num_hidden_layers=encoder.num_layers,
        num_attention_heads=encoder.num_heads,
        intermediate_size=encoder.intermediate_size,
        max_position_embeddings=encoder.max_position_embeddings,
    )


def load(model_class, encoder, weights):
    model = model_class(transformers_config(encoder)).eval()
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert not unexpected
    assert set(missing) <= {"generator_lm_head.weight"}  # tied to the token table
    if hasattr(model, "tie_weights"):
        model.tie_weights()
    return model


@pytest.mark.parametrize("sharing", ["tied", "none"])
def test_agrees_with_transformers(sharing):
    config = make_pretraining_config(model_section(embedding_sharing=sharing))
    params = init_params(config)
    rng = np.random.default_rng(0)
    # One document per row: [CLS] A [SEP] B [SEP] padding.
    ids = rng.integers(5, 256, size=(3, LENGTH)).astype(np.int32)
    ids[:, 0] = 1
    for row, (middle, end) in enumerate([(7, 23), (3, 15), (10, 11)]):
        ids[row, [middle, end]] = 2
        ids[row, end + 1 :] = 0
    inputs = derive_inputs(jnp.asarray(ids), SPECIAL, 2)
    arguments = {
        "input_ids": torch.from_numpy(ids.astype(np.int64)),
        "attention_mask": torch.from_numpy((ids != 0).astype(np.int64)),
        "token_type_ids": torch.from_numpy(np.asarray(inputs.token_types_BL).astype(np.int64)),
    }
    assert set(np.unique(inputs.token_types_BL)) == {0, 1}
    positions = jnp.tile(jnp.arange(LENGTH)[None], (3, 1))
    apply = jax.jit(PretrainingModel(config).apply)
    (x, table, bias), judged = apply({"params": params}, jnp.asarray(ids), inputs, positions)
    generated = x @ table.T + bias[None, None]
    embeddings = {
        name: params["embeddings" if sharing == "tied" else f"{name}_embeddings"]
        for name in ("generator", "discriminator")
    }
    generator = load(
        transformers.ElectraForMaskedLM,
        config.generator,
        torch_weights(
            params["generator"],
            embeddings["generator"],
            params["generator_predictions"],
            "generator_predictions",
        ),
    )
    discriminator = load(
        transformers.ElectraForPreTraining,
        config.discriminator,
        torch_weights(
            params["discriminator"],
            embeddings["discriminator"],
            params["discriminator_predictions"],
            "discriminator_predictions",
        ),
    )
    with torch.no_grad():
        expected_generated = generator(**arguments).logits.numpy()
        expected_judged = discriminator(**arguments).logits.numpy()
    real = ids != 0
    np.testing.assert_allclose(np.asarray(generated)[real], expected_generated[real], atol=1e-5, rtol=0)
    np.testing.assert_allclose(np.asarray(judged)[real], expected_judged[real], atol=1e-5, rtol=0)


# Counts of google-research/electra's sizes in transformers; that project's README rounds to 14M, 110M, 335M.
@pytest.mark.parametrize(
    "size, discriminator, generator",
    [("small", 13_549_057, 4_620_026), ("base", 109_483_009, 33_740_602), ("large", 335_142_913, 51_295_290)],
)
def test_published_parameter_counts(size, discriminator, generator):
    config = make_pretraining_config(
        with_assumed_sizes(electra_config.get_config(f"size={size}").to_dict())["model"]
    )
    ids = jnp.ones((1, 8), jnp.int32)
    params = jax.eval_shape(PretrainingModel(config).init, key(), ids, derive_inputs(ids, SPECIAL, 2), ids)[
        "params"
    ]
    counts = {name: sum(leaf.size for leaf in jax.tree.leaves(tree)) for name, tree in params.items()}
    assert (
        counts["embeddings"] + counts["discriminator"] + counts["discriminator_predictions"] == discriminator
    )
    assert counts["embeddings"] + counts["generator"] + counts["generator_predictions"] == generator


def test_packed_documents_do_not_attend_to_each_other():
    config = make_pretraining_config(model_section())
    params = init_params(config)
    ids = rows(1)
    second = int(np.flatnonzero(ids[0] == 1)[1])
    end = int(np.flatnonzero(ids[0])[-1]) + 1
    model = PretrainingModel(config)

    def judge(ids):
        ids = jnp.asarray(ids)
        return np.asarray(
            model.apply({"params": params}, ids, derive_inputs(ids, SPECIAL, 2), False, method="discriminate")
        )

    packed = judge(ids)
    alone = np.zeros_like(ids)
    alone[0, : end - second] = ids[0, second:end]
    np.testing.assert_allclose(packed[0, second:end], judge(alone)[0, : end - second], atol=1e-6)
    changed = ids.copy()
    changed[0, 1] = 77 if ids[0, 1] != 77 else 78
    np.testing.assert_array_equal(judge(changed)[0, second:], packed[0, second:])
    assert np.abs(judge(changed)[0, :second] - packed[0, :second]).max() > 1e-4


def test_derived_inputs_by_hand():
    ids = jnp.asarray([[1, 9, 2, 1, 8, 2, 7, 2, 0, 0]])
    inputs = derive_inputs(ids, SPECIAL, 2)
    np.testing.assert_array_equal(inputs.segments_BL, [[1, 1, 1, 2, 2, 2, 2, 2, 0, 0]])
    np.testing.assert_array_equal(inputs.positions_BL, [[0, 1, 2, 0, 1, 2, 3, 4, 0, 0]])
    np.testing.assert_array_equal(inputs.token_types_BL, [[0, 0, 0, 0, 0, 0, 1, 1, 0, 0]])


@pytest.mark.parametrize("has_relative_bias", [False, True], ids=["absolute", "relative_bias"])
@pytest.mark.parametrize(
    ("embedding_size", "num_heads"),
    [(64, 2), (32, 2), (96, 2), (128, 1)],
    ids=["as wide", "narrow embeddings", "wide embeddings", "one head"],
)
def test_heads_attend_to_a_neighbour_after_local_initialisation(embedding_size, num_heads, has_relative_bias):
    shape = {"hidden_size": 64, "num_layers": 1, "num_heads": num_heads, "intermediate_size": 64}
    section = relative_section if has_relative_bias else model_section
    model = section(
        initializer="local",
        embedding_size=embedding_size,
        discriminator=shape,
        generator=shape,
        type_vocab_size=2,
    )
    config = make_pretraining_config(model).discriminator
    ids = jnp.asarray([[1, *range(10, 30), 2]])
    inputs = derive_inputs(ids, SPECIAL, 2)
    embeddings = Embeddings(config)

    def first_layer():
        x_BLE, params = embeddings.init_with_output(key(), ids, inputs, False)
        params = nn.meta.unbox(Encoder(config).init(key(1), x_BLE, inputs, False))["params"]
        x_BLD = x_BLE
        if embedding_size != 64:
            x_BLD = jnp.einsum("BLE,ED->BLD", x_BLE, params["embeddings_project"]["kernel"])
        attention = params["layer_0"]["attention"]
        query, keys = (
            jnp.einsum("BLD,DHK->BHLK", x_BLD, attention[role]["kernel"]) for role in ("query", "key")
        )
        scores = jnp.einsum("BHLK,BHMK->BHLM", query, keys)[0] / np.sqrt(config.head_size)
        return x_BLD, jax.nn.softmax(scores, axis=-1)

    x_BLD, weights_HLM = jax.tree.map(np.asarray, jax.jit(first_layer)())
    # The states are as large as the embeddings' LayerNorm makes them, whichever feature they come from.
    assert np.square(x_BLD[..., :32]).mean() == pytest.approx(1.0, abs=0.15)
    assert np.square(x_BLD[..., 32:]).mean() == pytest.approx(1.0, abs=0.15)
    nearest = weights_HLM.argmax(-1) - np.arange(ids.shape[1])[None]
    last = ids.shape[1] - 1
    for head, (side, place) in enumerate([(-1, np.arange(1, last + 1)), (1, np.arange(last))][:num_heads]):
        assert (nearest[head, place] == side).mean() > 0.8
        assert weights_HLM[head, place, place + side].mean() > 0.4


def test_config_errors_name_the_key():
    with pytest.raises(ValueError, match=r"config\.model\.hidden_size"):
        make_pretraining_config(
            model_section(
                discriminator={"hidden_size": 30, "num_layers": 1, "num_heads": 4, "intermediate_size": 8}
            )
        )
    with pytest.raises(ValueError, match="embedding_sharing"):
        make_pretraining_config(model_section(embedding_sharing="both"))


@pytest.mark.parametrize(
    ("make", "after_ids"), [(PretrainingModel, (np.ones((2, 1), int),)), (TwoTowerModel, ())]
)
def test_shared_embeddings_are_dropped_at_the_rate_of_the_encoder_that_reads_them(make, after_ids):
    """Generator without dropout, discriminator with it, and the other way round."""
    ids = jnp.asarray(rows(2, LENGTH))
    inputs = derive_inputs(ids, SPECIAL, 2)
    section = model_section(hidden_dropout=0.0, attention_dropout=0.0, embedding_sharing="tied")
    params = init_params(make_pretraining_config(section), make=make)
    for name in ("generator", "discriminator"):
        changed = section | {name: section[name] | {"hidden_dropout": 0.5}}
        model = make(make_pretraining_config(changed))

        def states(method, *arguments, model=model):
            call = lambda is_training: model.apply(
                {"params": params},
                ids,
                inputs,
                *arguments,
                is_training,
                method=method,
                rngs={"dropout": key()},
            )
            return [jax.tree.leaves(call(is_training))[0] for is_training in (True, False)]

        for of, arguments in (("generator", after_ids), ("discriminator", ())):
            method = {"generator": "generate", "discriminator": "discriminate"}[of]
            training, evaluation = states(method, *arguments)
            assert (training == evaluation).all() == (of != name)
