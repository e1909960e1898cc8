"""The training step to compare with: replaced token detection in PyTorch, as a careful user of `transformers`
would write it.

It does the same work as ours: dynamic masking, the generator's head on the masked positions only, sampling,
detection, dropout, clipping and fused AdamW. The models are in torch_electra.py and torch_deberta.py.

Shapes: B batch, L length, P masked positions, V vocab.
"""

import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

from electra_jax.models.inputs import SpecialTokens

MATMUL_SIZE = 512


class TorchModels(NamedTuple):
    """Generator and discriminator as functions, and their parameters."""

    # (masked ids [B, L], attention mask [B, L], positions [B, P]) → logits [B, P, V]
    generate: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
    # (corrupted ids [B, L], attention mask [B, L]) → logits [B, L]
    detect: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    # Parameters by update. One group: a joint update; two: the generator's, then the discriminator's.
    groups: list[list[torch.nn.Parameter]]

    @property
    def device(self) -> torch.device:
        return self.groups[0][0].device


def compile_models(models: TorchModels) -> TorchModels:
    """The same models, whose functions torch.compile compiles at their first call."""
    return models._replace(generate=torch.compile(models.generate), detect=torch.compile(models.detect))


def bfloat16_slowdown() -> float:
    """How many times as long as with float32 a matrix product takes on the CPU with bfloat16."""
    seconds: dict[torch.dtype, list[float]] = {torch.float32: [], torch.bfloat16: []}
    for dtype, turns in seconds.items():
        x = torch.ones(MATMUL_SIZE, MATMUL_SIZE, dtype=dtype)
        for _ in range(3):
            began = time.perf_counter()
            x @ x
            turns.append(time.perf_counter() - began)
    return min(seconds[torch.bfloat16]) / min(seconds[torch.float32])


def unique_parameters(*modules: torch.nn.Module) -> list[torch.nn.Parameter]:
    """Trainable parameters of all modules, shared ones once."""
    parameters = (parameter for module in modules for parameter in module.parameters())
    return list({id(parameter): parameter for parameter in parameters if parameter.requires_grad}.values())


def gather_positions(hidden: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Hidden states [B, L, D] at positions [B, P]: [B, P, D]."""
    return hidden.gather(1, positions[..., None].expand(-1, -1, hidden.shape[-1]))


def make_torch_step(
    models: TorchModels,
    objective: dict,
    ids_BL: np.ndarray,
    special: SpecialTokens,
    *,
    num_predictions: int,
    autocast: bool,
) -> Callable[[], torch.Tensor]:
    """A function that takes one training step on `ids_BL`, on the models' device, and returns its last loss.
    On a GPU it returns before the step is done.

    Args:
      objective: config.objective.
      num_predictions: masked positions in each row.
      autocast: compute under bfloat16 autocast instead of in float32.
    """
    optimizers = [
        torch.optim.AdamW(group, lr=5e-4, eps=1e-6, weight_decay=0.01, fused=True) for group in models.groups
    ]
    device = models.device
    ids = torch.from_numpy(ids_BL.astype(np.int64)).to(device)
    attention_mask = (ids != special.pad).long()
    is_candidate = (ids != special.pad) & (ids != special.cls) & (ids != special.sep)

    def generator_loss() -> tuple[torch.Tensor, torch.Tensor]:
        """(weighted loss, corrupted ids [B, L])."""
        noise = torch.rand(ids.shape, device=device).masked_fill(~is_candidate, -1.0)
        positions = noise.topk(num_predictions, dim=1).indices
        targets = ids.gather(1, positions)
        is_masked = torch.rand(targets.shape, device=device) < objective["mask_token_prob"]
        masked = ids.scatter(1, positions, torch.where(is_masked, special.mask, targets))
        logits = models.generate(masked, attention_mask, positions).float().flatten(0, 1)
        with torch.no_grad():
            samples = torch.multinomial(logits.softmax(-1), 1).view_as(targets)
        loss = torch.nn.functional.cross_entropy(logits, targets.flatten())
        return objective["gen_weight"] * loss, ids.scatter(1, positions, samples)

    def discriminator_loss(corrupted: torch.Tensor) -> torch.Tensor:
        bce = torch.nn.functional.binary_cross_entropy_with_logits(
            models.detect(corrupted, attention_mask).float(), (corrupted != ids).float(), reduction="none"
        )
        weights = attention_mask.float()
        return objective["disc_weight"] * (bce * weights).sum() / weights.sum()

    def update(index: int, loss: torch.Tensor) -> None:
        loss.backward()
        torch.nn.utils.clip_grad_norm_(models.groups[index], 1.0)
        optimizers[index].step()

    def forward(function: Callable, *arguments):
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=autocast):
            return function(*arguments)

    def step() -> torch.Tensor:
        loss, corrupted = forward(generator_loss)
        if len(optimizers) == 1:
            loss = loss + forward(discriminator_loss, corrupted)
        else:
            update(0, loss)
            loss = forward(discriminator_loss, corrupted)
        update(-1, loss)
        for optimizer in optimizers:  # gradients take no memory while other programs have their turn
            optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    return step
