"""Teacher forcing: clean and noisy latents in one sequence, seen as the KV window will show them.

Shape letters: B clips, F latent frames of the sequence, T tokens of a latent frame, U distinct
poses of the batch, N layers, C dim, H heads, D head_dim, h w latent pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lingbot.model import CameraMaps, WorldModel


@dataclass(frozen=True, slots=True)
class TeacherMemory:
    """The model's `Memory` in training. Frames come in chunks: the clean ones, then the noisy ones.

    A clean chunk looks at itself and the clean ones before it; a noisy chunk at itself and the
    clean ones before it. Nothing is ever forgotten, so a sequence is no longer than a window.
    """

    chunk: int  # latent frames
    clean: Sequence[int]  # the number in the world's order of each clean chunk
    noisy: Sequence[int]  # of each noisy one

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """All [B, F, T, H, D]."""
        queries, keys, values = (t.split(self.chunk, dim=1) for t in (q, k, v))
        seen = []
        for i, number in enumerate([*self.clean, *self.noisy]):
            past = [j for j, earlier in enumerate(self.clean) if earlier < number]
            look = [*past, i]
            all_k = torch.cat([keys[j] for j in look], dim=1).flatten(1, 2)
            all_v = torch.cat([values[j] for j in look], dim=1).flatten(1, 2)
            own = queries[i]
            seen.append(_attention(own.flatten(1, 2), all_k, all_v).view_as(own))
        return torch.cat(seen, dim=1)

    def store(self, layer: int, k: Tensor, v: Tensor) -> None:
        """Training never calls `remember`."""
        raise NotImplementedError


def _attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """q [B, N, H, D] looks at k, v [B, M, H, D]: [B, N, H, D].

    Spelt out: on a CPU the backward pass of the fused kernel takes a third of a training step.
    """
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    weights: Tensor = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1)
    return (weights.to(v.dtype) @ v).transpose(1, 2)


def camera_maps(model: WorldModel, maps: Tensor, rows: Tensor) -> CameraMaps:
    """Scales and shifts for folded maps [U, 384, h, w] at rows [B, F] of them: N of [B, F, T, C].

    Each distinct pose goes through the conditioner once.
    """
    camera = model.embed_camera(maps.transpose(0, 1)[None])[0]  # [U, T, C]
    pairs = [block.camera.compute_scale_shift(camera) for block in model.blocks]  # type: ignore[operator, union-attr]
    flat = rows.flatten()
    scales, shifts = (
        [part.float().index_select(0, flat).unflatten(0, rows.shape) for part in parts]
        for parts in zip(*pairs, strict=True)
    )
    return CameraMaps(scales, shifts)
