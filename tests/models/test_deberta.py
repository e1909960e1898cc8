"""DeBERTaV3's encoders against `transformers`, their published sizes, and which loss trains which of them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from flax import linen as nn

from configs import deberta_v3 as deberta_config
from electra_jax.benchmarks.relative_attention import gathered_positions
from electra_jax.configuration.sizes import with_assumed_sizes
from electra_jax.models.config import make_pretraining_config
from electra_jax.models.disentangled_attention import (
    DisentangledSelfAttention,
    skewed_positions,
)
from electra_jax.models.encoder import EncoderLayer
from electra_jax.models.flops import discriminator_flops, generator_flops
from electra_jax.models.inputs import derive_inputs
from electra_jax.models.layers import LayerNorm
from electra_jax.models.pretraining import PretrainingModel
from electra_jax.planning.compiled import matmul_flops
from electra_jax.training.state import unbox
from support.jitted import apply_jitted
from support.random_parameters import random_parameters
from support.tiny import LENGTH, SPECIAL, deberta, deberta_section, key, rows

DISENTANGLED = deberta_section()["disentangled"]


def init_params(config, length=LENGTH):
    """Random parameters, also of biases, LayerNorms and deltas, so that a missing one is noticed."""
    ids = jnp.asarray(rows(2, length))
    arguments = ids, derive_inputs(ids, SPECIAL, 0), jnp.zeros((2, 1), int)
    return random_parameters(lambda: PretrainingModel(config).init(key(), *arguments)["params"])


def torch_weights(encoder, embeddings, head=None):
    """state_dict of transformers' DeBERTa-v2: kernels transposed, heads flattened."""
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

    put("deberta.embeddings.word_embeddings", embeddings["word_embeddings"])
    put("deberta.embeddings.LayerNorm", embeddings["LayerNorm"])
    out["deberta.encoder.rel_embeddings.weight"] = torch.from_numpy(
        np.asarray(encoder["rel_embeddings"]).copy()
    )
    put("deberta.encoder.LayerNorm", encoder["LayerNorm"])
    for name, tree in encoder.items():
        if name == "conv":
            out["deberta.encoder.conv.conv.weight"] = torch.from_numpy(
                np.asarray(tree["kernel"]).transpose(2, 1, 0).copy()
            )
            out["deberta.encoder.conv.conv.bias"] = torch.from_numpy(np.asarray(tree["bias"]).copy())
            put("deberta.encoder.conv.LayerNorm", tree["LayerNorm"])
        if not name.startswith("layer_"):
            continue
        layer = f"deberta.encoder.layer.{name.removeprefix('layer_')}"
        for part in ("query", "key", "value"):
            put(f"{layer}.attention.self.{part}_proj", tree["attention"][part])
        put(f"{layer}.attention.output.dense", tree["attention"]["output"])
        put(f"{layer}.attention.output.LayerNorm", tree["attention_LayerNorm"])
        put(f"{layer}.intermediate.dense", tree["intermediate"])
        put(f"{layer}.output.dense", tree["output"])
        put(f"{layer}.output.LayerNorm", tree["output_LayerNorm"])
    if head is not None:
        put("lm_predictions.lm_head.dense", head["dense"])
        put("lm_predictions.lm_head.LayerNorm", head["LayerNorm"])
        out["lm_predictions.lm_head.bias"] = torch.from_numpy(np.asarray(head["bias"]).copy())
    return out


def transformers_config(encoder):
    return transformers.DebertaV2Config(
        vocab_size=encoder.vocab_size,
        hidden_size=encoder.hidden_size,
        num_hidden_layers=encoder.num_layers,
        num_attention_heads=encoder.num_heads,
        intermediate_size=encoder.intermediate_size,
        max_position_embeddings=encoder.max_position_embeddings,
        type_vocab_size=0,
        layer_norm_eps=1e-7,
        relative_attention=True,
        max_relative_positions=encoder.disentangled.max_relative_positions,
        position_biased_input=False,
        position_buckets=encoder.disentangled.position_buckets,
        norm_rel_ebd="layer_norm",
        share_att_key=True,
        pos_att_type=["p2c", "c2p"],
        attention_head_size=encoder.head_size,
        legacy=False,
        **(
            {"conv_kernel_size": encoder.disentangled.conv_kernel_size, "conv_act": "gelu"}
            if encoder.disentangled.conv_kernel_size
            else {}
        ),
    )


def padded_rows(length):
    rng = np.random.default_rng(0)
    ids = rng.integers(5, 256, size=(3, length)).astype(np.int32)
    ids[:, 0] = 1
    for row, end in enumerate((length - 1, length // 2, length - 4)):
        ids[row, end] = 2
        ids[row, end + 1 :] = 0
    return ids


@pytest.mark.parametrize("length, conv, limit", [(16, 0, 512), (200, 0, 512), (512, 0, 512), (200, 3, 140)])
@pytest.mark.parametrize("position_terms", [skewed_positions, gathered_positions])
def test_agrees_with_transformers(length, conv, limit, position_terms, monkeypatch):
    monkeypatch.setattr(DisentangledSelfAttention, "position_terms", staticmethod(position_terms))
    config = make_pretraining_config(
        deberta_section(
            embedding_sharing="none",
            max_position_embeddings=512,
            disentangled=DISENTANGLED
            | {
                "position_buckets": 256,
                "max_relative_positions": limit,
                "enhanced_mask_decoder": False,
                "conv_kernel_size": conv,
            },
        )
    )
    params = init_params(config)
    ids = padded_rows(length)
    inputs = derive_inputs(jnp.asarray(ids), SPECIAL, 0)
    positions = jnp.tile(jnp.arange(length)[None], (3, 1))
    x, table, bias = apply_jitted(
        PretrainingModel(config), params, jnp.asarray(ids), inputs, positions, False, method="generate"
    )
    weights = torch_weights(
        params["generator"], params["generator_embeddings"], params["generator_predictions"]
    )
    model = transformers.DebertaV2ForMaskedLM(transformers_config(config.generator)).eval()
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert not unexpected and not [name for name in missing if "position_ids" not in name]
    with torch.no_grad():
        output = model(
            input_ids=torch.from_numpy(ids.astype(np.int64)),
            output_hidden_states=True,
            attention_mask=torch.from_numpy((ids != 0).astype(np.int64)),
        )
    real = ids != 0
    logits = np.asarray(x @ table.T + bias[None, None])
    np.testing.assert_allclose(logits[real], output.logits.numpy()[real], atol=2e-5, rtol=0)
    # The discriminator's encoder against the headless class.
    encoder = transformers.DebertaV2Model(transformers_config(config.discriminator)).eval()
    weights = torch_weights(params["discriminator"], params["discriminator_embeddings"])
    weights = {name.removeprefix("deberta."): weight for name, weight in weights.items()}
    missing, unexpected = encoder.load_state_dict(weights, strict=False)
    assert not unexpected and not [name for name in missing if "position_ids" not in name]
    with torch.no_grad():
        expected = encoder(
            input_ids=torch.from_numpy(ids.astype(np.int64)),
            attention_mask=torch.from_numpy((ids != 0).astype(np.int64)),
        ).last_hidden_state.numpy()
    ours = apply_jitted(PretrainingModel(config), params, jnp.asarray(ids), inputs, method=hidden_states)
    np.testing.assert_allclose(np.asarray(ours)[real], expected[real], atol=2e-5, rtol=0)


def hidden_states(model, ids, inputs):
    return model.discriminator(model.discriminator_embeddings(ids, inputs, False), inputs, False)


# Parameters of the encoders in transformers, without heads.
@pytest.mark.parametrize(
    "size, millions",
    [("xsmall", 70.68), ("small", 141.30), ("base", 183.83), ("large", 434.01), ("mdeberta", 278.22)],
)
def test_published_parameter_counts(size, millions):
    config = make_pretraining_config(
        with_assumed_sizes(deberta_config.get_config(f"size={size}").to_dict())["model"]
    )
    ids = jnp.ones((1, 8), jnp.int32)
    params = unbox(
        jax.eval_shape(PretrainingModel(config).init, key(), ids, derive_inputs(ids, SPECIAL, 0), ids)
    )["params"]
    count = lambda name: sum(leaf.size for leaf in jax.tree.leaves(params[name]))
    assert round((count("discriminator_embeddings") + count("discriminator")) / 1e6, 2) == millions
    assert config.generator.num_layers * 2 == config.discriminator.num_layers
    assert params["generator_embeddings"]["position_embeddings"]["embedding"].shape == (
        512,
        config.generator.hidden_size,
    )


def test_enhanced_mask_decoder_by_hand():
    """The last layer runs twice, with keys and values from the layer before and queries from the stream."""
    config = make_pretraining_config(deberta_section())
    params = init_params(config)
    ids = jnp.asarray(rows(2))
    inputs = derive_inputs(ids, SPECIAL, 0)

    def by_hand(model, ids, inputs):
        embeddings, encoder = model.generator_embeddings, model.generator
        weights = params["generator"]
        relative = LayerNorm(1e-7, "embed", "float32").apply(
            {"params": weights["LayerNorm"]}, weights["rel_embeddings"]
        )
        layer = lambda index, *a: EncoderLayer(encoder.config, False).apply(
            {"params": weights[f"layer_{index}"]}, a[0], inputs, False, relative, *a[1:]
        )
        x = layer(0, embeddings(ids, inputs, False))
        stream = x + embeddings.positions(inputs)
        stream = layer(1, x, stream)
        return layer(1, x, stream), encoder(
            embeddings(ids, inputs, False), inputs, False, embeddings.positions(inputs)
        )

    expected, ours = apply_jitted(PretrainingModel(config), params, ids, inputs, method=by_hand)
    np.testing.assert_allclose(ours, expected, atol=1e-6)


@pytest.mark.parametrize("decoder", [False, True])
def test_a_convolution_adds_its_products_to_the_flops(decoder):
    """Once for each encoder, also where the last layer runs twice, as the traced program has them."""
    ids = jnp.asarray(rows(2))
    arguments = ids, derive_inputs(ids, SPECIAL, 0), jnp.zeros((2, 1), int)

    def counted_and_estimated(width):
        changes = {"conv_kernel_size": width, "enhanced_mask_decoder": decoder}
        config = make_pretraining_config(deberta_section(disentangled=DISENTANGLED | changes))
        model = PretrainingModel(config)
        variables = unbox(jax.eval_shape(model.init, key(), *arguments))
        traced = jax.make_jaxpr(lambda variables: model.apply(variables, *arguments))(variables)
        flops = generator_flops(config.generator, LENGTH) + discriminator_flops(config, LENGTH)
        return np.array([matmul_flops(traced.jaxpr), 2 * LENGTH * flops])

    counted, estimated = counted_and_estimated(3) - counted_and_estimated(0)
    assert counted == estimated > 0


def test_packed_documents_do_not_attend_to_each_other():
    config = make_pretraining_config(deberta_section(disentangled=DISENTANGLED | {"conv_kernel_size": 3}))
    params = init_params(config)
    ids = rows(1)
    second, end = int(np.flatnonzero(ids[0] == 1)[1]), int(np.flatnonzero(ids[0])[-1]) + 1

    def run(ids, method):
        ids = jnp.asarray(ids)
        arguments = (
            ids,
            derive_inputs(ids, SPECIAL, 0),
            *([jnp.arange(LENGTH)[None]] if method == "generate" else []),
            False,
        )
        out = apply_jitted(PretrainingModel(config), params, *arguments, method=method)
        return np.asarray(out if method == "discriminate" else out.x_BPE)

    alone = np.zeros_like(ids)
    alone[0, : end - second] = ids[0, second:end]
    for method in ("discriminate", "generate"):
        np.testing.assert_allclose(
            run(ids, method)[0, second:end], run(alone, method)[0, : end - second], atol=2e-5
        )


def gradients(sharing):
    """(of the discriminator's loss alone, of the generator's): functions from a path to the size of its
    gradients."""
    make = functools.partial(deberta, deberta_section(embedding_sharing=sharing))
    params = random_parameters(lambda: make().init(key(), LENGTH))

    def loss(params, gen_weight, disc_weight):
        objective = make(gen_weight=gen_weight, disc_weight=disc_weight)
        batch, total, carry = objective.prepare(key(1), jnp.asarray(rows(8))), 0.0, None
        for phase in objective.phases:
            value, (_, carry) = phase.loss(params, batch, objective.normalizers(batch), None, carry)
            total += value
        return total

    def size(grads, *path):
        return float(sum(np.abs(leaf).sum() for leaf in jax.tree.leaves(_at(grads, path))))

    compute = jax.jit(jax.grad(loss))  # one program for both, since compiling takes most of the time
    return [
        functools.partial(size, jax.device_get(compute(params, *weights)))
        for weights in ((0.0, 1.0), (1.0, 0.0))
    ]


def _at(tree, path):
    return _at(tree[path[0]], path[1:]) if path else tree


@pytest.mark.slow
def test_which_parameters_get_a_gradient_from_each_loss():
    word = ("generator_embeddings", "word_embeddings")
    for sharing, own in (("gdes", "delta"), ("none", "embedding")):
        rtd, mlm = gradients(sharing)
        assert rtd("generator_embeddings") == rtd("generator") == rtd("generator_predictions") == 0.0
        assert rtd("discriminator_embeddings", "word_embeddings", own) > 0.0 and rtd("discriminator") > 0.0
        assert (
            mlm("discriminator_embeddings") == mlm("discriminator") == mlm("discriminator_predictions") == 0.0
        )
        assert mlm(*word) > 0.0 and mlm("generator_embeddings", "position_embeddings") > 0.0
    rtd, mlm = gradients("tied")
    assert rtd(*word) > 0.0 and mlm(*word) > 0.0 and rtd("generator") == 0.0


def test_position_tables_of_the_input_are_shared_like_word_tables():
    section = deberta_section(
        embedding_sharing="gdes",
        disentangled=DISENTANGLED | {"position_biased_input": True, "enhanced_mask_decoder": False},
    )
    objective = deberta(section)
    params = jax.jit(lambda: nn.meta.unbox(objective.init(key(), LENGTH)))()
    assert float(jnp.abs(params["discriminator_embeddings"]["position_embeddings"]["delta"]).sum()) == 0.0

    @jax.jit
    def gradients_of_the_discriminator(params):
        batch = objective.prepare(key(1), jnp.asarray(rows(8)))
        given = batch, objective.normalizers(batch), None
        _, (_, corrupted) = objective.phases[0].loss(params, *given, None)
        return jax.grad(lambda p: objective.phases[1].loss(p, *given, corrupted)[0])(params)

    grads = gradients_of_the_discriminator(params)
    assert float(jnp.abs(grads["discriminator_embeddings"]["position_embeddings"]["delta"]).sum()) > 0.0
    assert float(jnp.abs(grads["generator_embeddings"]["position_embeddings"]["embedding"]).sum()) == 0.0
    with pytest.raises(ValueError, match="enhanced_mask_decoder"):
        make_pretraining_config(deberta_section(disentangled=DISENTANGLED | {"position_biased_input": True}))
