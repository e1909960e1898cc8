"""ELECTRA in PyTorch: the models of `transformers` with tied embeddings and one joint update, as released."""

import torch
import transformers

from electra_jax.benchmarks.torch_step import TorchModels, gather_positions, unique_parameters
from electra_jax.models.config import EncoderConfig, PretrainingConfig


def make_torch_electra(
    model: PretrainingConfig, *, device: str = "cpu", attention: str | None = None
) -> TorchModels:
    """Generator and discriminator of `model`'s shape, with fresh weights, in training mode.

    `attention` is an implementation of `transformers`, "eager" or "sdpa"; None is its default.
    """
    torch.manual_seed(0)
    generator = transformers.ElectraForMaskedLM(_config(model.generator, attention)).train().to(device)
    discriminator = transformers.ElectraForPreTraining(_config(model.discriminator, attention))
    discriminator = discriminator.train().to(device)
    discriminator.electra.embeddings = generator.electra.embeddings

    def generate(ids, attention_mask, positions):
        hidden = generator.electra(ids, attention_mask=attention_mask).last_hidden_state
        return generator.generator_lm_head(
            generator.generator_predictions(gather_positions(hidden, positions))
        )

    return TorchModels(
        generate,
        lambda ids, attention_mask: discriminator(ids, attention_mask=attention_mask).logits,
        [unique_parameters(generator, discriminator)],
    )


def _config(encoder: EncoderConfig, attention: str | None) -> transformers.ElectraConfig:
    return transformers.ElectraConfig(
        vocab_size=encoder.vocab_size,
        embedding_size=encoder.embedding_size,
        hidden_size=encoder.hidden_size,
        num_hidden_layers=encoder.num_layers,
        num_attention_heads=encoder.num_heads,
        intermediate_size=encoder.intermediate_size,
        max_position_embeddings=encoder.max_position_embeddings,
        type_vocab_size=encoder.type_vocab_size,
        hidden_dropout_prob=encoder.hidden_dropout,
        attention_probs_dropout_prob=encoder.attention_dropout,
        layer_norm_eps=encoder.layer_norm_epsilon,
        **({} if attention is None else {"attn_implementation": attention}),
    )
