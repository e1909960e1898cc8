"""DeBERTa-v2/v3 with the replaced token detection head of its pre-training (microsoft/DeBERTa,
apps/models/replaced_token_detection_model.py). `transformers` has no class for it; this file travels with the
model.

    model = AutoModelForPreTraining.from_pretrained(DIRECTORY, trust_remote_code=True)
    model(**tokens).logits  # [batch, length]; positive: "replaced"
"""

from torch import nn
from transformers import DebertaV2Model, DebertaV2PreTrainedModel
from transformers.modeling_outputs import TokenClassifierOutput


class DetectionHead(nn.Module):
    """LayerNorm(state + state of [CLS]) → dense → GELU → one logit."""

    def __init__(self, config):
        super().__init__()
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.classifier = nn.Linear(config.hidden_size, 1)

    def forward(self, hidden):
        hidden = self.LayerNorm(hidden + hidden[:, :1])
        return self.classifier(nn.functional.gelu(self.dense(hidden)))[..., 0]


class DebertaV2ForReplacedTokenDetection(DebertaV2PreTrainedModel):
    """The encoder as `deberta` and the head as `mask_predictions`, Microsoft's names."""

    def __init__(self, config):
        super().__init__(config)
        self.deberta = DebertaV2Model(config)
        self.mask_predictions = DetectionHead(config)
        self.post_init()

    def forward(
        self,
        input_ids=None,
        attention_mask=None,
        token_type_ids=None,
        labels=None,
        output_hidden_states=None,
        **kwargs,
    ):
        """With `labels` [batch, length] (1 replaced, 0 original, −100 not scored), also the loss."""
        outputs = self.deberta(
            input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            output_hidden_states=output_hidden_states,
            **kwargs,
        )
        logits = self.mask_predictions(outputs.last_hidden_state)
        loss = None
        if labels is not None:
            is_scored = labels >= 0
            loss = nn.functional.binary_cross_entropy_with_logits(
                logits[is_scored], labels[is_scored].to(logits.dtype)
            )
        return TokenClassifierOutput(loss=loss, logits=logits, hidden_states=outputs.hidden_states)
