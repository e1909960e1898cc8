"""DeBERTaV3 in PyTorch: DebertaV2 of `transformers` with gradient-disentangled embedding sharing (GDES).

The generator is updated first. `transformers` has neither the enhanced mask decoder, which is left out, nor
the detection head, which is written here.
"""

import torch
import transformers

from electra_jax.benchmarks.torch_step import TorchModels, gather_positions, unique_parameters
from electra_jax.models.config import EncoderConfig, PretrainingConfig


class DisentangledEmbedding(torch.nn.Module):
    """Looks up tokens in stop_gradient(the generator's table) + a trainable delta."""

    def __init__(self, shared: torch.nn.Embedding):
        super().__init__()
        self.delta = torch.nn.Parameter(torch.zeros_like(shared.weight))
        self.shared = [shared]  # in a list, so that it is not a parameter of this module

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        embedding = torch.nn.functional.embedding
        return embedding(ids, self.shared[0].weight.detach()) + embedding(ids, self.delta)


class DetectionHead(torch.nn.Module):
    """Adds the state of [CLS] to every token, normalises, dense, GELU, one logit."""

    def __init__(self, config: transformers.DebertaV2Config):
        super().__init__()
        self.norm = torch.nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dense = torch.nn.Linear(config.hidden_size, config.hidden_size)
        self.classifier = torch.nn.Linear(config.hidden_size, 1)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        hidden = self.norm(hidden + hidden[:, :1])
        return self.classifier(torch.nn.functional.gelu(self.dense(hidden)))[..., 0]


def make_torch_deberta(model: PretrainingConfig, *, device: str = "cpu") -> TorchModels:
    """Generator and discriminator of `model`'s shape, with fresh weights, in training mode."""
    torch.manual_seed(0)
    generator = transformers.DebertaV2ForMaskedLM(_config(model.generator)).train().to(device)
    discriminator = transformers.DebertaV2Model(_config(model.discriminator)).train()
    head = DetectionHead(discriminator.config).to(device)
    words = generator.deberta.embeddings.word_embeddings
    discriminator.embeddings.word_embeddings = DisentangledEmbedding(words)
    discriminator.to(device)

    def generate(ids, attention_mask, positions):
        hidden = generator.deberta(ids, attention_mask=attention_mask).last_hidden_state
        return generator.lm_predictions(gather_positions(hidden, positions), words)

    def detect(ids, attention_mask):
        return head(discriminator(ids, attention_mask=attention_mask).last_hidden_state)

    return TorchModels(
        generate, detect, [unique_parameters(generator), unique_parameters(discriminator, head)]
    )


def _config(encoder: EncoderConfig) -> transformers.DebertaV2Config:
    disentangled = encoder.disentangled
    return transformers.DebertaV2Config(
        vocab_size=encoder.vocab_size,
        hidden_size=encoder.hidden_size,
        num_hidden_layers=encoder.num_layers,
        num_attention_heads=encoder.num_heads,
        attention_head_size=encoder.head_size,
        intermediate_size=encoder.intermediate_size,
        max_position_embeddings=encoder.max_position_embeddings,
        type_vocab_size=0,
        layer_norm_eps=encoder.layer_norm_epsilon,
        hidden_dropout_prob=encoder.hidden_dropout,
        attention_probs_dropout_prob=encoder.attention_dropout,
        relative_attention=True,
        position_biased_input=False,
        max_relative_positions=disentangled.max_relative_positions,
        position_buckets=disentangled.position_buckets,
        norm_rel_ebd="layer_norm",
        share_att_key=True,
        pos_att_type=["p2c", "c2p"],
        legacy=False,
    )
