"""A critic that tells what is made from what is true, patch by patch, against blur.

An error's square or size is least in the middle of what may be, and that is blurred: the critic
pulls towards what might be true instead. Hinge loss and spectral norms (Miyato et al., 2018).
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

RATE = 4e-4
WARM_UP = 200  # steps over which the pull rises


class Critic:
    """A network that scores patches, and its training beside the one that it pulls.

    `view` takes what is made, or true, to pictures [N, channels, h, w]. `widths` are those of the
    layers; the first `halvings` of them halve the picture.
    """

    def __init__(
        self,
        channels: int,
        widths: Sequence[int],
        *,
        halvings: int,
        share: float,
        view: Callable[[Tensor], Tensor],
        device: torch.device,
    ) -> None:
        layers: list[nn.Module] = []
        for i, width in enumerate(widths):
            size, stride = (4, 2) if i < halvings else (3, 1)
            conv = nn.Conv2d(channels, width, size, stride, padding=1)
            layers += [spectral_norm(conv), nn.LeakyReLU(0.2)]
            channels = width
        layers.append(spectral_norm(nn.Conv2d(channels, 1, 1)))
        self._network = nn.Sequential(*layers).to(device)
        self._optimizer = torch.optim.Adam(
            self._network.parameters(), lr=RATE, betas=(0.5, 0.9), eps=1e-6
        )
        self._share, self._view = share, view
        self.step = 0

    def backward(self, made: Tensor, true: Tensor, loss: Tensor) -> Tensor:
        """Learn to tell `made` from `true`; then send the gradient of `loss`, and the critic's own,
        into what made it. Gives how far apart the critic held them before, 0 for not at all.

        The critic's gradient is given the size of the loss's, times `share`.
        """
        shown, kept = self._view(made.detach()), self._view(true)
        scores = self._network(kept).float(), self._network(shown).float()
        hinge = F.relu(1 - scores[0]).mean() + F.relu(1 + scores[1]).mean()
        hinge.backward()
        self._optimizer.step()
        self._optimizer.zero_grad()

        (pull,) = torch.autograd.grad(loss, made, retain_graph=True)
        leaf = made.detach().requires_grad_()
        self._network.requires_grad_(False)
        (own,) = torch.autograd.grad(-self._network(self._view(leaf)).float().mean(), leaf)
        self._network.requires_grad_(True)
        share = self._share * min(1.0, self.step / WARM_UP)
        made.backward(pull + share * pull.norm() / (own.norm() + 1e-12) * own)
        self.step += 1
        gap: Tensor = (scores[0].mean() - scores[1].mean()).detach()
        return gap

    def state(self) -> dict[str, Any]:
        parts = {"network": self._network.state_dict(), "optimizer": self._optimizer.state_dict()}
        return {**parts, "step": self.step}

    def load(self, state: dict[str, Any]) -> None:
        self._network.load_state_dict(state["network"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]
