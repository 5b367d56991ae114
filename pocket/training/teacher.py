"""Teacher forcing: clean and noisy chunks in one batch, seen as the KV window will show them.

Every chunk is a row of the batch, as in play, with its own prompt and place in the world.

Shape letters: B clips, K chunks of a clip, clean ones first, F latent frames of a chunk, T tokens
of a latent frame, U distinct poses of the batch, N layers, C dim, H heads, D head_dim, h w latent
pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lingbot.dit.conditioner import PrecomputedMaps
from lingbot.dit.layers import attention
from lingbot.dit.model import TextKV, WorldModel


@dataclass(frozen=True, slots=True)
class TeacherMemory:
    """The model's `Memory` in training, for rows B * K.

    A clean chunk looks at the clean ones before it that a window would still hold, and at itself;
    a noisy one at the same clean ones, and at itself.
    """

    clean: Sequence[int]  # the number in the world's order of each clean chunk; 0 is the sink
    noisy: Sequence[int]  # of each noisy one
    window: int  # chunks, the sink's and the own one included

    def seen_by(self, number: int) -> list[int]:
        """Which of the clean chunks, by their place in `clean`, a chunk of this number looks at."""
        past = [place for place, earlier in enumerate(self.clean) if earlier < number]
        sink = [place for place in past if self.clean[place] == 0]
        recent = [place for place in past if self.clean[place] != 0]
        return sink + recent[max(0, len(recent) - (self.window - 2)) :]

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """All [B * K, F, T, H, D]."""
        numbers = [*self.clean, *self.noisy]
        queries, keys, values = (
            t.unflatten(0, (-1, len(numbers))).flatten(2, 3).unbind(1) for t in (q, k, v)
        )
        seen = []
        for i, number in enumerate(numbers):
            look = [*self.seen_by(number), i]
            all_k = torch.cat([keys[j] for j in look], dim=1)
            all_v = torch.cat([values[j] for j in look], dim=1)
            seen.append(_attention(queries[i], all_k, all_v))
        return torch.stack(seen, dim=1).view_as(q)

    def write(self, layer: int, k: Tensor, v: Tensor) -> None:
        """Training never calls `remember`."""
        raise NotImplementedError


def _attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """q [B, N, H, D] looks at k, v [B, M, H, D]: [B, N, H, D].

    Spelt out on a CPU: there the fused kernel's backward pass takes a third of a training step.
    """
    if q.is_cuda:
        return attention(q.to(v.dtype), k.to(v.dtype), v)
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    weights: Tensor = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1)
    return (weights.to(v.dtype) @ v).transpose(1, 2)


def camera_maps(model: WorldModel, maps: Tensor, rows: Tensor) -> PrecomputedMaps:
    """Scales and shifts for folded maps [U, 384, h, w] at rows [..., F]: N of [..., F, T, C].

    Each distinct pose goes through the conditioner once.
    """
    camera = model.embed_camera(maps.transpose(0, 1)[None])[0]  # [U, T, C]
    pairs = [block.camera.compute_scale_shift(camera) for block in model.blocks]  # type: ignore[operator, union-attr]
    flat = rows.flatten()
    scales, shifts = (
        [part.float().index_select(0, flat).unflatten(0, rows.shape) for part in parts]
        for parts in zip(*pairs, strict=True)
    )
    return PrecomputedMaps(scales, shifts)


def prompt_maps(model: WorldModel, contexts: Tensor, rows: Tensor) -> tuple[TextKV, ...]:
    """Keys and values of contexts [P, L, text_dim] for rows [B * K] of them."""
    text = model.embed_text(contexts)
    return tuple(TextKV(*(part.index_select(0, rows) for part in pair)) for pair in text)
