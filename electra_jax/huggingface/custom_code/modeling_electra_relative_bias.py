"""ELECTRA with a relative position bias: attention adds to each score a learned bias for the distance between
the two tokens, as in COCO-LM and MCL. (T5's buckets are different: see `bucket_edges`.) `transformers` has no
class for it; this file travels with the model.

    model = AutoModel.from_pretrained(DIRECTORY, trust_remote_code=True)

Everything else is ELECTRA's own code, except that the tables of positions and token types may be missing.
"""

import torch
from torch import nn
from transformers import (
    ElectraConfig,
    ElectraForMaskedLM,
    ElectraForPreTraining,
    ElectraForQuestionAnswering,
    ElectraForSequenceClassification,
    ElectraForTokenClassification,
    ElectraModel,
)
from transformers.models.electra.modeling_electra import ElectraEncoder


class ElectraRelativeBiasConfig(ElectraConfig):
    """Has its own model_type, so that nothing loads the model as an ELECTRA without the bias."""

    model_type = "electra_relative_bias"
    relative_bias_num_buckets: int = 32
    relative_bias_max_distance: int = 128
    position_biased_input: bool = True  # the input has absolute positions as well


def bucket_edges(num_buckets, max_distance):
    """The largest distance |r| in each bucket of one direction except the last. Up to num_buckets/4 a bucket
    holds one distance; beyond, buckets grow logarithmically. Computed in integers."""
    side, last = num_buckets // 2, max_distance - 1
    exact = side // 2
    edges, steps = list(range(exact)), side - 1 - exact
    for step in range(steps):
        edge = edges[-1]
        while (edge + 1) ** steps * exact**step <= last**step * exact**steps:
            edge += 1
        edges.append(edge)
    return edges


class RelativeBiasEncoder(ElectraEncoder):
    """ELECTRA's layers. All of them get the bias as part of the attention mask, which is added to the
    scores."""

    def __init__(self, config):
        super().__init__(config)
        self.relative_bias = nn.Embedding(config.relative_bias_num_buckets, config.num_attention_heads)
        self.edges = bucket_edges(config.relative_bias_num_buckets, config.relative_bias_max_distance)

    def bias(self, length):
        """The bias of every pair of positions [1, heads, length, length]."""
        device = self.relative_bias.weight.device
        place = torch.arange(length, device=device)
        distance = place[None, :] - place[:, None]  # key − query
        bucket = (distance.abs()[..., None] > torch.tensor(self.edges, device=device)).sum(-1)
        return self.relative_bias(distance.sign() * bucket + len(self.edges)).permute(2, 0, 1)[None]

    def forward(self, hidden_states, attention_mask=None, *args, **kwargs):
        bias = self.bias(hidden_states.shape[1]).to(hidden_states.dtype)
        if attention_mask is None:
            attention_mask = bias
        elif attention_mask.dtype == torch.bool:
            attention_mask = bias.masked_fill(~attention_mask, torch.finfo(bias.dtype).min)
        else:
            attention_mask = attention_mask + bias
        return super().forward(hidden_states, attention_mask, *args, **kwargs)


class NoTable(nn.Module):
    """Replaces an embedding table that the model lacks."""

    def forward(self, ids):
        return 0.0


class ElectraRelativeBiasModel(ElectraModel):
    """The encoder without a head."""

    config_class = ElectraRelativeBiasConfig
    # These implementations do not take an additive mask: they would drop the bias.
    _supports_flash_attn = False
    _supports_flex_attn = False

    def __init__(self, config):
        super().__init__(config)
        self.encoder = RelativeBiasEncoder(config)
        if not config.position_biased_input:
            self.embeddings.position_embeddings = NoTable()
        if not config.type_vocab_size:
            self.embeddings.token_type_embeddings = NoTable()
        self.post_init()


class WithRelativeBias:
    """Replaces ELECTRA's encoder by the one of this file."""

    config_class = ElectraRelativeBiasConfig
    _supports_flash_attn = False
    _supports_flex_attn = False

    def __init__(self, config):
        super().__init__(config)
        self.electra = ElectraRelativeBiasModel(config)
        self.post_init()


class ElectraRelativeBiasForPreTraining(WithRelativeBias, ElectraForPreTraining):
    """With the replaced token detection head: one logit per token, positive for "replaced"."""


class ElectraRelativeBiasForMaskedLM(WithRelativeBias, ElectraForMaskedLM):
    """With the generator's head."""


class ElectraRelativeBiasForSequenceClassification(WithRelativeBias, ElectraForSequenceClassification):
    """For classes or scores of texts."""


class ElectraRelativeBiasForTokenClassification(WithRelativeBias, ElectraForTokenClassification):
    """For tags of tokens."""


class ElectraRelativeBiasForQuestionAnswering(WithRelativeBias, ElectraForQuestionAnswering):
    """For answers within a text."""
