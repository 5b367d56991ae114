"""Sequence parallelism: every rank works on its share of each latent frame's tokens.

In attention a rank holds all tokens of its share of the heads instead. One all-to-all exchanges q,
k and v, another one the result. The scheme is that of DeepSpeed-Ulysses (arXiv:2309.14509). A
rank's KV window holds all tokens of its heads.

Shape letters: B batch, F latent frames, T tokens of a latent frame, t those of this rank,
H heads, h those of this rank, D head_dim, C any width.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from lingbot.config import ModelConfig
from lingbot.errors import LingbotError

T = TypeVar("T")


class SequenceParallelGroup:
    """The processes that run one copy of a model together, as seen by one of them.

    Without a process group there is one rank, and nothing is copied or sent.
    """

    def __init__(self, process_group: dist.ProcessGroup | None = None) -> None:
        """`process_group`, NCCL's or gloo's, is for tensors on the model's device."""
        self.process_group = process_group
        self.rank = dist.get_rank(process_group) if process_group else 0
        self.num_ranks = dist.get_world_size(process_group) if process_group else 1

    def check(self, config: ModelConfig, *, tokens: int) -> None:
        """Raise LingbotError for a model that cannot be split over the ranks."""
        if config.num_heads % self.num_ranks:
            raise LingbotError(
                f"num_heads {config.num_heads} must be divisible by the {self.num_ranks} ranks"
            )
        if tokens < self.num_ranks:
            raise LingbotError(
                f"a latent frame of {tokens} tokens cannot be split over {self.num_ranks} ranks"
            )

    def from_rank_0(self, compute: Callable[[], T]) -> T:
        """The result of `compute` on rank 0, on every rank. Other ranks do not call it."""
        results: list[Any] = [compute() if self.rank == 0 else None]
        if self.process_group is not None:
            dist.broadcast_object_list(results, src=0, group=self.process_group)
        result: T = results[0]
        return result

    def split(self, num_tokens: int) -> list[int]:
        """How many tokens of a latent frame each rank has; the first ranks may have one more."""
        share, rest = divmod(num_tokens, self.num_ranks)
        return [share + (rank < rest) for rank in range(self.num_ranks)]

    def shard(self, x: Tensor) -> Tensor:
        """This rank's tokens: [B, F, T, ...] -> [B, F, t, ...]."""
        here: Tensor = x.split(self.split(x.shape[2]), dim=2)[self.rank]
        return here

    def gather(self, x: Tensor, *, num_tokens: int) -> Tensor:
        """All ranks' tokens on every rank: [B, F, t, C] -> [B, F, T, C]."""
        if self.process_group is None:
            return x
        shapes = [(*x.shape[:2], count, *x.shape[3:]) for count in self.split(num_tokens)]
        return torch.cat(self._exchange([x] * self.num_ranks, shapes), dim=2)

    def to_heads(self, *tensors: Tensor, num_tokens: int) -> Sequence[Tensor]:
        """All heads of this rank's tokens -> all tokens of its heads, in one all-to-all.

        Each [B, F, t, H, D] -> [B, F, T, h, D].
        """
        if self.process_group is None:
            return tensors
        packed = torch.stack(tensors)
        pieces = packed.chunk(self.num_ranks, dim=4)
        k, b, f, _, h, d = pieces[0].shape
        shapes = [(k, b, f, count, h, d) for count in self.split(num_tokens)]
        return torch.cat(self._exchange(pieces, shapes), dim=3).unbind(0)

    def to_tokens(self, x: Tensor) -> Tensor:
        """The inverse of `to_heads`: [B, F, T, h, D] -> [B, F, t, H, D]."""
        if self.process_group is None:
            return x
        pieces = x.split(self.split(x.shape[2]), dim=2)
        shapes = [tuple(pieces[self.rank].shape)] * self.num_ranks
        return torch.cat(self._exchange(pieces, shapes), dim=3)

    def _exchange(
        self, pieces: Sequence[Tensor], shapes: Sequence[tuple[int, ...]]
    ) -> list[Tensor]:
        """Send piece i to rank i, and receive one of shapes[i] from it."""
        sent = torch.cat([piece.flatten() for piece in pieces])
        counts = [torch.Size(shape).numel() for shape in shapes]
        received = sent.new_empty(sum(counts))
        # As bytes, because gloo does not support every type.
        size = sent.element_size()
        dist.all_to_all_single(
            received.view(torch.uint8),
            sent.view(torch.uint8),
            [count * size for count in counts],
            [piece.numel() * size for piece in pieces],
            group=self.process_group,
        )
        parts = received.split(counts)
        return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]


SINGLE = SequenceParallelGroup()
