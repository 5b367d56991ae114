"""The KV window: the keys and values of the latent frames that a session remembers.

Shape letters: N layers, B batch, F latent frames, T tokens of a latent frame, H heads, D head_dim.
"""

from dataclasses import dataclass
from typing import Protocol, Self

import torch
from torch import Tensor

from lingbot.config import MAX_POSITIONS, ModelConfig, check_window
from lingbot.dit.layers import attention, move_back
from lingbot.parallel.ulysses import SequenceParallelGroup


def frames_moved_back(num_chunks: int, *, chunk: int, window: int, max_positions: int) -> int:
    """`KVWindow.moved_back` after so many chunks of a world that was never rebuilt."""
    without = max_positions // chunk  # chunks before the first move
    if num_chunks <= without:
        return 0
    period = (max_positions - window) // chunk + 1  # chunks between two moves
    last = without + (num_chunks - 1 - without) // period * period  # before it was the last move
    return (last + 1) * chunk - window


class KVCache(Protocol):
    """The past of one chunk. The caller owns it: the model holds nothing but weights."""

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention of the chunk's q over the past and its own k, v: all [B, F, T, H, D]."""

    def write(self, layer: int, k: Tensor, v: Tensor) -> None:
        """Keep the chunk's k, v without computing attention."""


@dataclass(slots=True, kw_only=True)
class KVWindow:
    """A sink that is never overwritten, then a ring of the most recent latent frames.

    The window counts the sink and the current chunk. Slots fill in order; once all are full, a new
    chunk overwrites the oldest frames in place. Keys are stored after rotary embedding, so the
    order of slots does not matter. All passes of a chunk write the chunk's own slots; `advance`
    then makes the chunk part of the past.

    The rotary embedding knows `max_positions` positions. Before a chunk that would pass them,
    `make_room` turns the ring's keys back, so that its oldest frame follows the sink: as when the
    window filled up. Frames of the ring keep their distances; those to the sink become shorter.
    """

    k_NBFTHD: Tensor
    v_NBFTHD: Tensor
    sink: int  # latent frames
    max_positions: int = MAX_POSITIONS
    num_frames: int = 0  # latent frames of the past, overwritten ones included
    moved_back: int = 0  # latent frames between the ring's positions and its frames' numbers

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
        max_positions: int = MAX_POSITIONS,
    ) -> Self:
        """Allocate room for `window` latent frames of `tokens` tokens each.

        Each of `num_ranks` ranks keeps its share of the heads. Raises ValueError unless the window
        holds the sink and one chunk, and has at most `max_positions`, all in latent frames.
        """
        check_window(window, sink=sink, chunk=chunk, max_positions=max_positions)
        num_heads = config.num_heads // num_ranks
        shape = (config.num_layers, 1, num_heads, window, tokens, config.head_dim)
        k, v = (torch.zeros(shape, device=device, dtype=dtype) for _ in range(2))
        # In memory the tokens of a head lie side by side, which attention reads fastest.
        order = (0, 1, 3, 4, 2, 5)
        k, v = k.permute(order), v.permute(order)
        return cls(k_NBFTHD=k, v_NBFTHD=v, sink=sink, max_positions=max_positions)

    @property
    def window(self) -> int:
        """Number of slots, one per latent frame."""
        return self.k_NBFTHD.shape[2]

    @property
    def num_tokens(self) -> int:
        """Tokens of a latent frame."""
        return self.k_NBFTHD.shape[3]

    def emptied(self) -> Self:
        """The same window without slots, so that their memory can be freed."""
        k, v = self.k_NBFTHD[:, :, :0].clone(), self.v_NBFTHD[:, :, :0].clone()
        return type(self)(k_NBFTHD=k, v_NBFTHD=v, sink=self.sink)

    def slots(self, frames: Tensor) -> Tensor:
        """The slots of latent frames, counted from the world's first."""
        in_ring = self.sink + (frames - self.sink) % (self.window - self.sink)
        return torch.where(frames < self.window, frames, in_ring)

    def make_room(self, num_frames: int) -> None:
        """Turn the ring's keys back if the next `num_frames` latent frames have no positions."""
        stop = self.num_frames + num_frames - self.moved_back
        if stop <= self.max_positions:
            return
        for k in self.k_NBFTHD[:, :, self.sink :]:  # one layer's copy in float32 at a time
            move_back(k, stop - self.window)
        self.moved_back += stop - self.window

    def next_positions(self, num_frames: int) -> Tensor:
        """The rotary positions of the next `num_frames` latent frames."""
        first = self.num_frames - self.moved_back
        return torch.arange(first, first + num_frames, device=self.k_NBFTHD.device)

    def for_chunk(self, num_frames: int) -> "ChunkWindow":
        """The cache of the next chunk, which has `num_frames` latent frames."""
        stop = self.num_frames + num_frames
        # Computed on the device, because a list's way to a GPU waits for all its work.
        frames = torch.arange(self.num_frames, stop, device=self.k_NBFTHD.device)
        filled = min(stop, self.window)
        k, v = self.k_NBFTHD[:, :, :filled], self.v_NBFTHD[:, :, :filled]
        return ChunkWindow(k, v, self.slots(frames))

    def advance(self, num_frames: int) -> None:
        """Make the current chunk, of `num_frames` latent frames, part of the past."""
        self.num_frames += num_frames


@dataclass(frozen=True)
class ChunkWindow:
    """The `KVCache` of one chunk: the window's filled slots, and those that the chunk writes.

    It holds tensors and no counts: an int that changes with every chunk would make `torch.compile`
    compile each block again.
    """

    k_NBFTHD: Tensor  # F: the filled slots, those of the chunk included
    v_NBFTHD: Tensor
    slots: Tensor  # [F] of the chunk

    @property
    def num_tokens(self) -> int:
        """Tokens of a latent frame."""
        return self.k_NBFTHD.shape[3]

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Write k, v to the chunk's slots, then attend to all filled ones: [B, F, T, H, D]."""
        self.write(layer, k, v)
        all_k, all_v = self.k_NBFTHD[layer].flatten(1, 2), self.v_NBFTHD[layer].flatten(1, 2)
        return attention(q.flatten(1, 2), all_k, all_v).view_as(q)

    def write(self, layer: int, k: Tensor, v: Tensor) -> None:
        """Write the chunk's k, v [B, F, T, H, D] to its slots."""
        for kept, new in ((self.k_NBFTHD, k), (self.v_NBFTHD, v)):
            kept[layer].index_copy_(1, self.slots, new.to(kept.dtype))


@dataclass(frozen=True)
class ShardedWindow:
    """The `KVCache` of one chunk on one rank: the window of its heads, behind the all-to-alls."""

    window: ChunkWindow
    group: SequenceParallelGroup

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """All [B, F, t, H, D]."""
        q, k, v = self.group.to_heads(q, k, v, num_tokens=self.window.num_tokens)
        return self.group.to_tokens(self.window.attend(layer, q, k, v))

    def write(self, layer: int, k: Tensor, v: Tensor) -> None:
        """Both [B, F, t, H, D]."""
        self.window.write(layer, *self.group.to_heads(k, v, num_tokens=self.window.num_tokens))
