"""A patch discriminator of true and generated chunks, against blur.

Errors such as L1 and L2 are least at the mean or median of all possible results, which is blurred.
The discriminator pulls towards plausible results instead. Hinge loss and spectral normalisation
(Miyato et al., 2018).
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from lingbot.config import LATENT_CHANNELS, POCKET

WIDTHS = (128, 128, 128)  # channels of the layers; the first layer halves the size
GRADIENT_RATIO = 1.0  # norm of the discriminator's gradient, relative to that of the loss
RATE = 4e-4
WARM_UP_STEPS = 200  # over which the ratio rises


class Discriminator:
    """The network that scores patches, and its training beside the generator's.

    Chunks are [..., 16, F, h, w]. The network sees all latent frames of a chunk at once.
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
        self, generated: Tensor, true: Tensor, loss: Tensor, unscaled: Tensor | None = None
    ) -> Tensor:
        """Train the discriminator for one step, then propagate all gradients to the generator.

        The generator receives the gradients of `loss`, of `unscaled` and of the discriminator. The
        latter is scaled to the norm of the gradient of `loss` alone, times GRADIENT_RATIO.

        Returns the mean score of true chunks less that of generated ones, before the step.
        """
        scores = self._score(true), self._score(generated.detach())
        hinge = F.relu(1 - scores[0]).mean() + F.relu(1 + scores[1]).mean()
        hinge.backward()
        self._optimizer.step()
        self._optimizer.zero_grad()

        (gradient,) = torch.autograd.grad(loss, generated, retain_graph=True)
        leaf = generated.detach().requires_grad_()
        self._network.requires_grad_(False)
        (own,) = torch.autograd.grad(-self._score(leaf).mean(), leaf)
        self._network.requires_grad_(True)
        ratio = GRADIENT_RATIO * min(1.0, self.step / WARM_UP_STEPS)
        total = gradient + ratio * gradient.norm() / (own.norm() + 1e-12) * own
        if unscaled is not None:
            total += torch.autograd.grad(unscaled, generated, retain_graph=True)[0]
        generated.backward(total)
        self.step += 1
        gap: Tensor = (scores[0].mean() - scores[1].mean()).detach()
        return gap

    def _score(self, chunks: Tensor) -> Tensor:
        """Score the patches of chunks, [N, 1, rows, columns]."""
        scores: Tensor = self._network(chunks.flatten(0, -5).flatten(1, 2))
        return scores.float()

    def state(self) -> dict[str, Any]:
        parts = {"network": self._network.state_dict(), "optimizer": self._optimizer.state_dict()}
        return {**parts, "step": self.step}

    def load(self, state: dict[str, Any]) -> None:
        self._network.load_state_dict(state["network"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]
