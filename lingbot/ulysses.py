"""Sequence parallelism: every rank works on its share of each latent frame's tokens.

In attention it holds all tokens of its share of the heads instead: one all-to-all there for q, k
and v, one back. The scheme is that of DeepSpeed-Ulysses (arXiv:2309.14509). The past is kept by
latent frame, so a rank's KV window has all tokens of its heads.

Shape letters: B batch, F latent frames, T tokens of a latent frame, t those of this rank,
H heads, h those of this rank, D head_dim, C any width.
"""

import pickle
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import FileStore, TCPStore  # type: ignore[attr-defined]
from torch.distributed.distributed_c10d import Store
from torch.multiprocessing.spawn import spawn

from lingbot.config import ModelConfig
from lingbot.errors import LingbotError
from lingbot.kv_cache import KVWindow

START_TIMEOUT_S = 300.0
TIMEOUT_S = 20.0  # a collective that takes longer will never end: some rank hangs or is gone

T = TypeVar("T")


class Ranks:
    """The processes that run one copy of a model together, as one of them sees them.

    Without a group there is one, and nothing is ever sent.
    """

    def __init__(self, group: dist.ProcessGroup | None = None) -> None:
        """``group``: for tensors on the model's device, NCCL's or gloo's."""
        self.group = group
        self.rank = dist.get_rank(group) if group else 0
        self.num_ranks = dist.get_world_size(group) if group else 1

    def check(self, config: ModelConfig, *, tokens: int) -> None:
        """Raise LingbotError where a model cannot be split so."""
        if config.num_heads % self.num_ranks:
            raise LingbotError(
                f"num_heads {config.num_heads} must be divisible by the {self.num_ranks} ranks"
            )
        if tokens < self.num_ranks:
            raise LingbotError(
                f"a latent frame of {tokens} tokens cannot be split over {self.num_ranks} ranks"
            )

    def split(self, num_tokens: int) -> list[int]:
        """How many tokens of a latent frame each rank has; the first ranks have one more."""
        share, rest = divmod(num_tokens, self.num_ranks)
        return [share + (rank < rest) for rank in range(self.num_ranks)]

    def take(self, x: Tensor) -> Tensor:
        """This rank's tokens: [B, F, T, ...] -> [B, F, t, ...]."""
        here: Tensor = x.split(self.split(x.shape[2]), dim=2)[self.rank]
        return here

    def gather(self, x: Tensor, *, num_tokens: int) -> Tensor:
        """Everybody's tokens on every rank: [B, F, t, C] -> [B, F, T, C]."""
        if self.group is None:
            return x
        shapes = [(*x.shape[:2], count, *x.shape[3:]) for count in self.split(num_tokens)]
        return torch.cat(self._exchange([x] * self.num_ranks, shapes), dim=2)

    def to_heads(self, *tensors: Tensor, num_tokens: int) -> Sequence[Tensor]:
        """All heads of this rank's tokens -> all tokens of its heads, in one all-to-all.

        Each [B, F, t, H, D] -> [B, F, T, h, D].
        """
        if self.group is None:
            return tensors
        packed = torch.stack(tensors)
        pieces = packed.chunk(self.num_ranks, dim=4)
        k, b, f, _, h, d = pieces[0].shape
        shapes = [(k, b, f, count, h, d) for count in self.split(num_tokens)]
        return torch.cat(self._exchange(pieces, shapes), dim=3).unbind(0)

    def to_tokens(self, x: Tensor) -> Tensor:
        """The way back: [B, F, T, h, D] -> [B, F, t, H, D]."""
        if self.group is None:
            return x
        pieces = x.split(self.split(x.shape[2]), dim=2)
        shapes = [tuple(pieces[self.rank].shape)] * self.num_ranks
        return torch.cat(self._exchange(pieces, shapes), dim=3)

    def _exchange(
        self, pieces: Sequence[Tensor], shapes: Sequence[tuple[int, ...]]
    ) -> list[Tensor]:
        """Give piece i to rank i, and get one of shapes[i] from it."""
        sent = torch.cat([piece.flatten() for piece in pieces])
        counts = [torch.Size(shape).numel() for shape in shapes]
        received = sent.new_empty(sum(counts))
        # As bytes, because gloo does not know every type.
        size = sent.element_size()
        dist.all_to_all_single(
            received.view(torch.uint8),
            sent.view(torch.uint8),
            [count * size for count in counts],
            [piece.numel() * size for piece in pieces],
            group=self.group,
        )
        parts = received.split(counts)
        return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]


ALONE = Ranks()


@dataclass(frozen=True, slots=True)
class ShardedWindow:
    """The model's `Memory` on a rank: the window of its heads, behind the all-to-alls."""

    window: KVWindow
    ranks: Ranks

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """All [B, F, t, H, D]."""
        q, k, v = self.ranks.to_heads(q, k, v, num_tokens=self.window.num_tokens)
        return self.ranks.to_tokens(self.window.attend(layer, q, k, v))

    def store(self, layer: int, k: Tensor, v: Tensor) -> None:
        """Both [B, F, t, H, D]."""
        self.window.store(layer, *self.ranks.to_heads(k, v, num_tokens=self.window.num_tokens))


def open_meeting(host: str) -> TCPStore:
    """Where the ranks find each other: a store at a free port of ``host``, this machine."""
    return TCPStore(host, 0, is_master=True, wait_for_workers=False)


def find_meeting(host: str, port: int) -> TCPStore:
    """What another rank opened."""
    return TCPStore(host, port, is_master=False)


def join(store: Store, *, rank: int, num_ranks: int, device: torch.device) -> Ranks:
    """Meet the other ranks at ``store``, over NCCL where the model is on a GPU, else gloo.

    Once a process. Raises RuntimeError if they do not all come within START_TIMEOUT_S.
    """
    # They may come far apart; from then on they keep step.
    store.set(f"rank {rank}", "here")
    store.wait([f"rank {i}" for i in range(num_ranks)], timedelta(seconds=START_TIMEOUT_S))
    on_gpu = device.type == "cuda"
    if on_gpu and device.index is None:
        device = torch.device("cuda", torch.cuda.current_device())  # NCCL wants the number
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if on_gpu else "gloo",  # gloo for what is no tensor of the model
        store=store,
        rank=rank,
        world_size=num_ranks,
        timeout=timedelta(seconds=TIMEOUT_S),
        device_id=device if on_gpu else None,
    )
    group = dist.group.WORLD
    assert group is not None
    return Ranks(group)


def run_ranks(num_ranks: int, call: Callable[..., T], *args: object) -> T:
    """``call(ranks, *args)`` in each of ``num_ranks`` new processes on this machine's CPUs.

    Returns what rank 0's returns; all of it must be picklable. Raises
    torch.multiprocessing.ProcessRaisedException, with the traceback, if one of them raised.
    """
    with tempfile.TemporaryDirectory() as folder:
        spawn(_run_rank, (num_ranks, Path(folder), call, args), nprocs=num_ranks)
        result: T = pickle.loads((Path(folder) / "result").read_bytes())
        return result


def _run_rank(
    rank: int, num_ranks: int, folder: Path, call: Callable[..., Any], args: tuple[object, ...]
) -> None:
    torch.set_num_threads(1)  # the processes share this machine's cores
    store = FileStore(str(folder / "meeting"), num_ranks)
    ranks = join(store, rank=rank, num_ranks=num_ranks, device=torch.device("cpu"))
    result = call(ranks, *args)
    if rank == 0:
        (folder / "result").write_bytes(pickle.dumps(result))
    dist.barrier()  # nobody hangs up on a rank that still talks
    dist.destroy_process_group()
