"""The peer: one ELECTRA training step in PyTorch with the models of `transformers`, written as its user would write it well.

The same work as ours: dynamic masking, the generator's head on the masked positions only, sampling, RTD, tied embeddings,
dropout, clipping and AdamW (fused).
"""

from collections.abc import Callable

import numpy as np
import torch
import transformers

from electra_jax.models.config import EncoderConfig, PretrainingConfig
from electra_jax.models.inputs import SpecialTokens


def make_torch_step(model: PretrainingConfig, objective: dict, ids_BL: np.ndarray, special: SpecialTokens, *,
                    num_predictions: int, autocast: bool) -> Callable[[], float]:
    """A function that trains on `ids_BL` once, in float32 or under bfloat16 autocast, and returns the loss."""
    torch.manual_seed(0)
    generator = transformers.ElectraForMaskedLM(_config(model.generator))
    discriminator = transformers.ElectraForPreTraining(_config(model.discriminator))
    discriminator.electra.embeddings = generator.electra.embeddings  # tied, as in the released code
    parameters = list({id(p): p for module in (generator, discriminator) for p in module.parameters()}.values())
    optimizer = torch.optim.AdamW(parameters, lr=5e-4, eps=1e-6, weight_decay=0.01, fused=True)
    generator.train()
    discriminator.train()
    ids = torch.from_numpy(ids_BL.astype(np.int64))
    attention_mask = (ids != special.pad).long()
    is_candidate = (ids != special.pad) & (ids != special.cls) & (ids != special.sep)

    def loss_of_batch() -> torch.Tensor:
        noise = torch.rand(ids.shape).masked_fill(~is_candidate, -1.0)
        positions = noise.topk(num_predictions, dim=1).indices
        targets = ids.gather(1, positions)
        is_masked = torch.rand(targets.shape) < objective["mask_token_prob"]
        masked = ids.scatter(1, positions, torch.where(is_masked, special.mask, targets))
        hidden = generator.electra(masked, attention_mask=attention_mask).last_hidden_state
        hidden = hidden.gather(1, positions[..., None].expand(-1, -1, hidden.shape[-1]))
        logits = generator.generator_lm_head(generator.generator_predictions(hidden)).float()
        generator_loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
        with torch.no_grad():
            samples = torch.multinomial(logits.flatten(0, 1).softmax(-1), 1).view_as(targets)
            corrupted = ids.scatter(1, positions, samples)
            is_replaced = (corrupted != ids).float()
        found = discriminator(corrupted, attention_mask=attention_mask).logits.float()
        weights = attention_mask.float()
        bce = torch.nn.functional.binary_cross_entropy_with_logits(found, is_replaced, reduction="none")
        return objective["gen_weight"] * generator_loss + objective["disc_weight"] * (bce * weights).sum() / weights.sum()

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            loss = loss_of_batch()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        return loss.item()

    return step


def _config(encoder: EncoderConfig) -> transformers.ElectraConfig:
    return transformers.ElectraConfig(
        vocab_size=encoder.vocab_size, embedding_size=encoder.embedding_size, hidden_size=encoder.hidden_size,
        num_hidden_layers=encoder.num_layers, num_attention_heads=encoder.num_heads,
        intermediate_size=encoder.intermediate_size, max_position_embeddings=encoder.max_position_embeddings,
        type_vocab_size=encoder.type_vocab_size, hidden_dropout_prob=encoder.hidden_dropout,
        attention_probs_dropout_prob=encoder.attention_dropout, layer_norm_eps=encoder.layer_norm_epsilon)
