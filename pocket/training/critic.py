"""A critic that tells made chunks from true ones, patch by patch, against blur.

An error's square or size is least in the middle of what may be, and that is blurred: the critic
pulls towards what might be true instead. Hinge loss and spectral norms (Miyato et al., 2018).
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from lingbot.config import LATENT_CHANNELS, POCKET

WIDTHS = (128, 128, 128)  # channels of its layers, the first of which halves the picture
SHARE = 1.0  # of its pull, to the error's
RATE = 4e-4
WARM_UP = 200  # steps over which the pull rises


class Critic:
    """A network that scores patches, and its training beside the one that it pulls.

    It sees a chunk's latent frames at once: chunks are [..., 16, F, h, w].
    """

    def __init__(self, device: torch.device) -> None:
        channels = LATENT_CHANNELS * POCKET.chunk
        layers: list[nn.Module] = []
        for i, width in enumerate(WIDTHS):
            size, stride = (4, 2) if i == 0 else (3, 1)
            conv = nn.Conv2d(channels, width, size, stride, padding=1)
            layers += [spectral_norm(conv), nn.LeakyReLU(0.2)]
            channels = width
        layers.append(spectral_norm(nn.Conv2d(channels, 1, 1)))
        self._network = nn.Sequential(*layers).to(device)
        self._optimizer = torch.optim.Adam(
            self._network.parameters(), lr=RATE, betas=(0.5, 0.9), eps=1e-6
        )
        self.step = 0

    def backward(
        self, made: Tensor, true: Tensor, loss: Tensor, aside: Tensor | None = None
    ) -> Tensor:
        """Learn to tell `made` from `true`; then send the gradients of `loss` and of `aside`, and
        the critic's own, into what made it. Gives how far apart the critic held them before, 0 for
        not at all.

        The critic's gradient is given the size of the loss's alone, times SHARE.
        """
        scores = self._score(true), self._score(made.detach())
        hinge = F.relu(1 - scores[0]).mean() + F.relu(1 + scores[1]).mean()
        hinge.backward()
        self._optimizer.step()
        self._optimizer.zero_grad()

        (pull,) = torch.autograd.grad(loss, made, retain_graph=True)
        leaf = made.detach().requires_grad_()
        self._network.requires_grad_(False)
        (own,) = torch.autograd.grad(-self._score(leaf).mean(), leaf)
        self._network.requires_grad_(True)
        share = SHARE * min(1.0, self.step / WARM_UP)
        pulls = pull + share * pull.norm() / (own.norm() + 1e-12) * own
        if aside is not None:
            pulls += torch.autograd.grad(aside, made, retain_graph=True)[0]
        made.backward(pulls)
        self.step += 1
        gap: Tensor = (scores[0].mean() - scores[1].mean()).detach()
        return gap

    def _score(self, chunks: Tensor) -> Tensor:
        """Of each patch, [N, 1, rows, columns]."""
        scores: Tensor = self._network(chunks.flatten(0, -5).flatten(1, 2))
        return scores.float()

    def state(self) -> dict[str, Any]:
        parts = {"network": self._network.state_dict(), "optimizer": self._optimizer.state_dict()}
        return {**parts, "step": self.step}

    def load(self, state: dict[str, Any]) -> None:
        self._network.load_state_dict(state["network"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]
