"""The window of the past that a session remembers: keys and values by latent frame.

Shape letters: N layers, B batch, F latent frames, T tokens of a latent frame, H heads, D head_dim.
"""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from lingbot.config import ModelConfig, check_window
from lingbot.dit.layers import attention
from lingbot.parallel.ulysses import SequenceParallelGroup


@dataclass(slots=True)
class KVWindow:
    """A sink that is never forgotten, then a ring of the most recent latent frames.

    The window counts the sink and the chunk being made. Slots fill in order; once they are full,
    a new chunk takes those of the oldest frames in place. Nothing is rolled: keys carry their
    rotary position, so attention does not mind the order. While a chunk is made, its passes write
    its own slots again and again; only ``advance`` makes it part of the past.
    """

    k_NBFTHD: Tensor
    v_NBFTHD: Tensor
    sink: int
    num_frames: int = 0  # latent frames of the past, forgotten ones included

    @classmethod
    def empty(
        cls,
        config: ModelConfig,
        *,
        window: int,
        sink: int,
        chunk: int,
        tokens: int,
        device: torch.device,
        dtype: torch.dtype,
        num_ranks: int = 1,
    ) -> Self:
        """Room for ``window`` latent frames of ``tokens`` each, allocated once.

        Of several ranks each keeps the past of its share of the heads.
        """
        check_window(window, sink=sink, chunk=chunk)
        num_heads = config.num_heads // num_ranks
        shape = (config.num_layers, 1, window, tokens, num_heads, config.head_dim)
        k, v = (torch.zeros(shape, device=device, dtype=dtype) for _ in range(2))
        return cls(k, v, sink=sink)

    @property
    def window(self) -> int:
        return self.k_NBFTHD.shape[2]

    @property
    def num_tokens(self) -> int:
        """Of a latent frame."""
        return self.k_NBFTHD.shape[3]

    def emptied(self) -> Self:
        """The same window without its memory."""
        return type(self)(
            self.k_NBFTHD[:, :, :0].clone(), self.v_NBFTHD[:, :, :0].clone(), self.sink
        )

    def slot(self, frame: int) -> int:
        """Where a latent frame of the world is kept."""
        if frame < self.window:
            return frame
        return self.sink + (frame - self.sink) % (self.window - self.sink)

    def write(self, layer: int, k: Tensor, v: Tensor) -> None:
        """Write the current chunk's k, v [B, F, T, H, D] to its slots."""
        first = self.num_frames
        slots = [self.slot(frame) for frame in range(first, first + k.shape[1])]
        self.k_NBFTHD[layer, :, slots] = k.to(self.k_NBFTHD.dtype)
        self.v_NBFTHD[layer, :, slots] = v.to(self.v_NBFTHD.dtype)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """The chunk's q looks at the window's past and at its own k, v: [B, F, T, H, D]."""
        self.write(layer, k, v)
        filled = min(self.num_frames + k.shape[1], self.window)
        past_k = self.k_NBFTHD[layer, :, :filled].flatten(1, 2)
        past_v = self.v_NBFTHD[layer, :, :filled].flatten(1, 2)
        return attention(q.flatten(1, 2), past_k, past_v).view_as(q)

    def advance(self, num_frames: int) -> None:
        """The current chunk is finished: from now on it is the past."""
        self.num_frames += num_frames


@dataclass(frozen=True, slots=True)
class ShardedWindow:
    """The model's `Memory` on a rank: the window of its heads, behind the all-to-alls."""

    window: KVWindow
    group: SequenceParallelGroup

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """All [B, F, t, H, D]."""
        q, k, v = self.group.to_heads(q, k, v, num_tokens=self.window.num_tokens)
        return self.group.to_tokens(self.window.attend(layer, q, k, v))

    def write(self, layer: int, k: Tensor, v: Tensor) -> None:
        """Both [B, F, t, H, D]."""
        self.window.write(layer, *self.group.to_heads(k, v, num_tokens=self.window.num_tokens))
