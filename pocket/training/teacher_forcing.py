"""Teacher forcing: clean and noisy chunks in one batch, with the attention of the KV window.

Every chunk is a row of the model's batch, as in play, with its own prompt and positions.

Shape letters: B clips, K chunks of a clip with the clean ones first, F latent frames of a chunk,
T tokens of a latent frame. U distinct poses, N layers, C dim, H heads, D head_dim, h w latent
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
class TeacherForcingCache:
    """The model's `KVCache` in training, for B * K rows.

    A chunk, clean or noisy, attends to itself and to the earlier clean chunks that a window would
    hold.
    """

    clean: Sequence[int]  # numbers of the clean chunks in their clip; 0 is the sink
    noisy: Sequence[int]  # numbers of the noisy chunks
    window: int  # chunks, including the sink and the chunk itself

    def visible_to(self, number: int) -> list[int]:
        """Return the indices in `clean` of the chunks to which a chunk of this number attends."""
        past = [place for place, earlier in enumerate(self.clean) if earlier < number]
        sink = [place for place in past if self.clean[place] == 0]
        recent = [place for place in past if self.clean[place] != 0]
        return sink + recent[max(0, len(recent) - (self.window - 2)) :]

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend chunk by chunk. All tensors are [B * K, F, T, H, D]."""
        numbers = [*self.clean, *self.noisy]
        queries, keys, values = (
            t.unflatten(0, (-1, len(numbers))).flatten(2, 3).unbind(1) for t in (q, k, v)
        )
        outputs = []
        for i, number in enumerate(numbers):
            visible = [*self.visible_to(number), i]
            all_k = torch.cat([keys[j] for j in visible], dim=1)
            all_v = torch.cat([values[j] for j in visible], dim=1)
            outputs.append(_attention(queries[i], all_k, all_v))
        return torch.stack(outputs, dim=1).view_as(q)

    def write(self, layer: int, k: Tensor, v: Tensor) -> None:
        """Raise NotImplementedError: training never calls `WorldModel.write_cache`."""
        raise NotImplementedError


def _attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """q [B, N, H, D] attends to k, v [B, M, H, D]: [B, N, H, D].

    On a CPU the products are explicit, because the fused kernel's backward pass would take a third
    of a training step.
    """
    if q.is_cuda:
        return attention(q.to(v.dtype), k.to(v.dtype), v)
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    weights: Tensor = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1)
    return (weights.to(v.dtype) @ v).transpose(1, 2)


def camera_maps(model: WorldModel, maps: Tensor, rows: Tensor) -> PrecomputedMaps:
    """Compute scales and shifts of maps [U, 384, h, w] at rows [..., F]: N of [..., F, T, C].

    Each distinct pose passes through the conditioner once.
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
    """Compute keys and values of contexts [P, L, text_dim], and gather them at rows [B * K]."""
    text = model.embed_text(contexts)
    return tuple(TextKV(*(part.index_select(0, rows) for part in pair)) for pair in text)
