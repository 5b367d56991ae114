"""The optimizers of both trainings: Muon for hidden matrices, AdamW for all other weights."""

from typing import Any

import torch
from torch import Tensor, nn


class Optimizers:
    """Muon for the matrices and convolutions in `hidden`, AdamW for everything else.

    Muon (Jordan et al., 2024) takes matrices only, so it sees every weight as a matrix with one row
    for each output channel. Its steps have the size of AdamW's, so one rate serves both.
    """

    def __init__(self, model: nn.Module, hidden: list[nn.Module]) -> None:
        self._weights = [p for part in hidden for p in part.parameters() if p.ndim > 1]
        self._matrices = [nn.Parameter(_as_matrix(weight.detach())) for weight in self._weights]
        chosen = {id(weight) for weight in self._weights}
        others = [p for p in model.parameters() if id(p) not in chosen]
        self._muon = torch.optim.Muon(
            self._matrices, lr=0.0, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"
        )
        self._adamw = torch.optim.AdamW(others, betas=(0.9, 0.95), weight_decay=0.01)

    def step(self, rate: float, *, muon_factor: float = 1.0) -> None:
        """Move the weights and clear their gradients."""
        for weight, matrix in zip(self._weights, self._matrices, strict=True):
            if weight.grad is not None:
                matrix.grad = _as_matrix(torch.empty_like(weight).copy_(weight.grad))
                weight.grad = None
        optimizers: tuple[torch.optim.Optimizer, ...] = (self._muon, self._adamw)
        for optimizer, factor in zip(optimizers, (muon_factor, 1.0), strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate * factor
            optimizer.step()
            optimizer.zero_grad()

    def state(self) -> list[dict[str, Any]]:
        return [self._muon.state_dict(), self._adamw.state_dict()]

    def load(self, state: list[dict[str, Any]]) -> None:
        for optimizer, part in zip((self._muon, self._adamw), state, strict=True):
            optimizer.load_state_dict(part)


def _as_matrix(weight: Tensor) -> Tensor:
    """View a weight [N, ...] as [N, M] in the order of its memory, which may be channels-last."""
    columns = weight[0].numel()
    return weight.as_strided((weight.shape[0], columns), (columns, 1))
