"""The processes of a replica group: how they meet, and how a test or a command spawns them."""

import pickle
import tempfile
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch.distributed import FileStore, TCPStore  # type: ignore[attr-defined]
from torch.distributed.distributed_c10d import Store
from torch.multiprocessing.spawn import spawn

from lingbot.parallel.ulysses import SequenceParallelGroup

T = TypeVar("T")

START_TIMEOUT_S = 300.0
TIMEOUT_S = 20.0  # a collective that takes longer will never end: some rank hangs or is gone


def create_rendezvous(host: str) -> TCPStore:
    """Where the ranks find each other: a store at a free port of ``host``, this machine."""
    return TCPStore(host, 0, is_master=True, wait_for_workers=False)


def connect_rendezvous(host: str, port: int) -> TCPStore:
    """What another rank opened."""
    return TCPStore(host, port, is_master=False)


def join(store: Store, *, rank: int, num_ranks: int, device: torch.device) -> SequenceParallelGroup:
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
    return SequenceParallelGroup(group)


def spawn_ranks(num_ranks: int, call: Callable[..., T], *args: object) -> T:
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
    group = join(store, rank=rank, num_ranks=num_ranks, device=torch.device("cpu"))
    result = call(group, *args)
    if rank == 0:
        (folder / "result").write_bytes(pickle.dumps(result))
    dist.barrier()  # nobody hangs up on a rank that still talks
    dist.destroy_process_group()
