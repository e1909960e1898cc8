"""Fine-tuning in PyTorch: an encoder of `transformers` with a task's head, the loss, the published optimizer.

The schedule, the optimizer, the layer-wise rates and the losses are implemented independently of ours, so
that a mistake in either shows.

Shapes: B batch, L length, D hidden, C outputs of the task.
"""

import re
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import torch
import transformers
from torch import nn

from electra_jax.finetuning.batches import TaskBatch
from electra_jax.models.inputs import SpecialTokens

NO_DECAY = re.compile(r"LayerNorm|bias")
IMPOSSIBLE = -1000.0  # score of tokens where no answer can start or end


class TaskModule(nn.Module):
    """Ids [B, L] → outputs [B, C]; tagging: [B, L, C]; answers: logits [B, L, 2] of start and end."""

    def __init__(
        self, encoder: transformers.PreTrainedModel, head: nn.Module, task_type: str, special: SpecialTokens
    ):
        super().__init__()
        self.encoder, self.head = encoder, head
        self._reads_cls, self._special = task_type in ("classification", "regression"), special

    def forward(self, ids_BL: torch.Tensor) -> torch.Tensor:
        is_token_BL = (ids_BL != self._special.pad).long()
        last_type = max(self.encoder.config.type_vocab_size - 1, 0)
        token_types_BL = seps_before(ids_BL, self._special.sep).clamp(max=last_type) * is_token_BL
        states_BLD = self.encoder(
            ids_BL, attention_mask=is_token_BL, token_type_ids=token_types_BL
        ).last_hidden_state
        return self.head(states_BLD[:, 0] if self._reads_cls else states_BLD)


def seps_before(ids_BL: torch.Tensor, sep: int) -> torch.Tensor:
    """Number of [SEP] before each token [B, L]: 0 in the first text and its [SEP], 1 in the second."""
    is_sep_BL = (ids_BL == sep).long()
    return is_sep_BL.cumsum(dim=1) - is_sep_BL


def load_module(
    path: str, task_type: str, num_outputs: int, special: SpecialTokens, model: dict[str, Any]
) -> TaskModule:
    """The encoder of a Hugging Face directory with its weights, and a newly initialised head.

    Args:
      model: config.model.

    Raises:
      ValueError, OSError: `transformers` cannot load the encoder, or see `make_head`.
    """
    encoder = transformers.AutoModel.from_pretrained(
        path,
        dtype=torch.float32,
        hidden_dropout_prob=model["hidden_dropout"],
        attention_probs_dropout_prob=model["attention_dropout"],
    )
    if hasattr(encoder, "pooler"):
        encoder.pooler = None  # BERT's, which no head here uses
    head = make_head(encoder.config, task_type, num_outputs, model["head"], model["head_dropout"])
    return TaskModule(encoder, head, task_type, special)


def make_head(
    config: transformers.PreTrainedConfig, task_type: str, num_outputs: int, style: str, dropout: float
) -> nn.Sequential:
    """The head that config.model.head names, initialised as published: states [..., D] → outputs [..., C].

    DeBERTa initialises from a normal distribution. ELECTRA, and this code for BERT, truncates it at two
    standard deviations, and uses Glorot's uniform distribution in the last layer.

    Args:
      style: config.model.head.

    Raises:
      ValueError: ELECTRA's own head for answers, which is not implemented here.
    """
    is_deberta = config.model_type == "deberta-v2"
    classifier = nn.Linear(config.hidden_size, num_outputs)
    nn.init.zeros_(classifier.bias)
    (_normal(config) if is_deberta else nn.init.xavier_uniform_)(classifier.weight)
    if task_type == "question_answering":
        if style == "published" and not is_deberta:
            raise ValueError(
                f"config.model.head: got {style!r}, expected 'transformers': ELECTRA's own head for answers "
                "is not implemented in PyTorch. Set --config.model.head=transformers, also for the run to "
                "compare with."
            )
        return nn.Sequential(OrderedDict(classifier=classifier))
    last = OrderedDict(dropout=nn.Dropout(dropout), classifier=classifier)
    if task_type == "tagging" or (style == "published" and not is_deberta):
        return nn.Sequential(last)
    pooler = nn.Linear(config.hidden_size, config.hidden_size)
    nn.init.zeros_(pooler.bias)
    _normal(config)(pooler.weight)
    first = OrderedDict() if is_deberta else OrderedDict(inner_dropout=nn.Dropout(dropout))
    return nn.Sequential(first | OrderedDict(pooler=pooler, gelu=nn.GELU()) | last)


def _normal(config: transformers.PreTrainedConfig) -> Callable[[torch.Tensor], torch.Tensor]:
    std = config.initializer_range
    if config.model_type == "deberta-v2":
        return lambda weight: nn.init.normal_(weight, std=std)
    return lambda weight: nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)


def task_loss(
    task_type: str, outputs: torch.Tensor, batch: TaskBatch, special: SpecialTokens, label_scale: float
) -> torch.Tensor:
    """Mean loss over scored labels. An answer's loss is the mean over its start and end, each a choice among
    [CLS] and the context's tokens."""
    labels, is_scored = torch.from_numpy(batch.labels), torch.from_numpy(batch.is_scored)
    cross_entropy = nn.functional.cross_entropy
    if task_type == "regression":
        return nn.functional.mse_loss(outputs[is_scored][:, 0], labels[is_scored] / label_scale)
    if task_type != "question_answering":
        return cross_entropy(outputs[is_scored], labels[is_scored].long())
    ids_BL = torch.from_numpy(batch.ids_BL)
    may_answer_BL = (
        (seps_before(ids_BL, special.sep) == 1) & (ids_BL != special.sep) & (ids_BL != special.pad)
    )
    may_answer_BL[:, 0] = True
    logits_BL2 = outputs.masked_fill(~may_answer_BL[..., None], IMPOSSIBLE)[is_scored]
    ends_B3 = labels[is_scored].long()
    start_loss = cross_entropy(logits_BL2[..., 0], ends_B3[:, 0])
    end_loss = cross_entropy(logits_BL2[..., 1], ends_B3[:, 1])
    return (start_loss + end_loss) / 2


def learning_rate(optimizer: dict[str, Any], step: int, num_steps: int) -> float:
    """The learning rate of a step, counted from 0, by config.optimizer.

    Raises:
      ValueError: an unknown schedule.
    """
    warmup_steps = optimizer["warmup_steps"] or int(optimizer["warmup_share"] * num_steps)
    warmup = min(1.0, step / warmup_steps) if warmup_steps else 1.0
    decay = 1.0 - step / num_steps
    if optimizer["schedule"] == "warmup_times_decay":
        return optimizer["learning_rate"] * warmup * decay
    if optimizer["schedule"] == "warmup_then_decay":
        return optimizer["learning_rate"] * (decay if step >= warmup_steps else warmup)
    raise ValueError(
        f"config.optimizer.schedule: got {optimizer['schedule']!r}, expected warmup_times_decay or "
        "warmup_then_decay."
    )


class _Moments(NamedTuple):
    """Adam's moments of one parameter."""

    mean: torch.Tensor
    square: torch.Tensor
    rate: float  # multiplier of the learning rate
    weight_decay: float


class TaskOptimizer:
    """Clipping by the global norm, Adam, decoupled weight decay, layer-wise rates; a `step` for each batch.

    Not from torch.optim, which always corrects Adam's bias; BERT, ELECTRA and DeBERTa do not.
    """

    def __init__(self, module: TaskModule, optimizer: dict[str, Any], num_steps: int):
        """`optimizer` is config.optimizer."""
        self._settings, self._num_steps, self._step = optimizer, num_steps, 0
        num_layers = module.encoder.config.num_hidden_layers
        self._moments = {
            parameter: _Moments(
                torch.zeros_like(parameter),
                torch.zeros_like(parameter),
                optimizer["layer_decay"] ** depth(name, num_layers, optimizer["top_exponent"]),
                0.0 if NO_DECAY.search(name) else optimizer["weight_decay"],
            )
            for name, parameter in module.named_parameters()
        }

    @torch.no_grad()
    def step(self) -> None:
        """Update the parameters with their gradients, and delete the gradients."""
        settings = self._settings
        beta1, beta2 = settings["beta1"], settings["beta2"]
        nn.utils.clip_grad_norm_(self._moments, settings["clip_norm"])
        rate = learning_rate(settings, self._step, self._num_steps)
        self._step += 1
        corrections = (
            (1 - beta1**self._step, 1 - beta2**self._step) if settings["bias_correction"] else (1.0, 1.0)
        )
        for parameter, moments in self._moments.items():
            moments.mean.lerp_(parameter.grad, 1 - beta1)
            moments.square.mul_(beta2).addcmul_(parameter.grad, parameter.grad, value=1 - beta2)
            root = (moments.square / corrections[1]).sqrt_().add_(settings["epsilon"])
            update = (moments.mean / corrections[0]).div_(root).add_(parameter, alpha=moments.weight_decay)
            parameter.sub_(update, alpha=rate * moments.rate)
            parameter.grad = None


def depth(name: str, num_layers: int, top_exponent: int) -> int:
    """Exponent of a parameter's layer-wise decay: 0 in the head, `top_exponent` in the top layer, one more in
    each layer below."""
    if name.startswith("head."):
        return 0
    layer = re.match(r"encoder\.encoder\.layer\.(\d+)\.", name)
    return num_layers + top_exponent - (1 + int(layer[1]) if layer else 0)


def train(
    module: TaskModule,
    task_type: str,
    batches: Iterable[TaskBatch],
    num_steps: int,
    config: dict[str, Any],
    special: SpecialTokens,
) -> Iterator[float]:
    """Train on the batches in their order; yields the loss of each step.

    Args:
      config: the sections model, optimizer and task.
    """
    optimizer = TaskOptimizer(module, config["optimizer"], num_steps)
    module.train()
    for padded in batches:
        count = int((padded.indices_B >= 0).sum())  # padding rows are last
        batch = padded._replace(
            ids_BL=padded.ids_BL[:count], labels=padded.labels[:count], is_scored=padded.is_scored[:count]
        )
        outputs = forward(module, batch, config["model"]["dtype"])
        loss = task_loss(task_type, outputs, batch, special, config["task"]["label_scale"])
        loss.backward()
        optimizer.step()
        yield loss.item()


def forward(module: TaskModule, batch: TaskBatch, dtype: str) -> torch.Tensor:
    """The module's outputs in float32, computed in `dtype`."""
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == "bfloat16"):
        return module(torch.from_numpy(batch.ids_BL).long()).float()
