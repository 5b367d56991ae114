"""The processes of a replica group: how they connect, and how tests and commands spawn them."""

import pickle
import tempfile
from collections.abc import Callable
from datetime import timedelta
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch.distributed import FileStore, TCPStore  # type: ignore[attr-defined]
from torch.distributed.distributed_c10d import Store
from torch.multiprocessing.spawn import start_processes

from lingbot.parallel.ulysses import SequenceParallelGroup

T = TypeVar("T")

START_TIMEOUT_S = 300.0  # from the first rank's arrival to the last one's
COLLECTIVE_TIMEOUT_S = 20.0  # a collective that takes longer never ends: a rank hangs or is gone
SPAWNED_TIMEOUT_S = 120.0  # spawned ranks share CPUs with other programs


def create_rendezvous(host: str) -> TCPStore:
    """Open the store through which the ranks connect, on a free port of `host`, this machine."""
    return TCPStore(host, 0, is_master=True, wait_for_workers=False)


def connect_rendezvous(host: str, port: int) -> TCPStore:
    """Connect to a store that another rank created."""
    return TCPStore(host, port, is_master=False)


def join(
    store: Store,
    *,
    rank: int,
    num_ranks: int,
    device: torch.device,
    start_timeout_s: float = START_TIMEOUT_S,
    collective_timeout_s: float = COLLECTIVE_TIMEOUT_S,
) -> SequenceParallelGroup:
    """Connect to the other ranks through `store`: NCCL for a model on a GPU, gloo otherwise.

    A process may join one group at a time. Raises RuntimeError if a rank is missing after
    `start_timeout_s`.
    """
    # Ranks may start minutes apart; collectives have the shorter timeout.
    store.set(f"rank {rank}", "here")
    store.wait([f"rank {i}" for i in range(num_ranks)], timedelta(seconds=start_timeout_s))
    on_gpu = device.type == "cuda"
    if on_gpu and device.index is None:
        device = torch.device("cuda", torch.cuda.current_device())  # NCCL needs the index
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if on_gpu else "gloo",  # gloo for the command channel
        store=store,
        rank=rank,
        world_size=num_ranks,
        timeout=timedelta(seconds=collective_timeout_s),
        device_id=device if on_gpu else None,
    )
    group = dist.group.WORLD
    assert group is not None
    return SequenceParallelGroup(group)


def spawn_ranks(num_ranks: int, call: Callable[..., T], *args: object) -> T:
    """Run `call(group, *args)` in `num_ranks` new processes on this machine's CPUs.

    Returns rank 0's result. Call, arguments and result must be picklable. Raises
    torch.multiprocessing.ProcessRaisedException, with the traceback of the first rank that raises.
    """
    with tempfile.TemporaryDirectory() as folder:
        parameters = (num_ranks, Path(folder), call, args)
        # Forked from a process that has imported torch: an import in each rank takes seconds.
        get_context("forkserver").set_forkserver_preload(["__main__", __name__])
        start_processes(_run_rank, parameters, nprocs=num_ranks, start_method="forkserver")
        result: T = pickle.loads((Path(folder) / "result").read_bytes())
        return result


def _run_rank(
    rank: int,
    num_ranks: int,
    folder: Path,
    call: Callable[..., Any],
    args: tuple[object, ...],
) -> None:
    torch.set_num_threads(1)  # the processes share this machine's cores
    store = FileStore(str(folder / "rendezvous"), num_ranks)
    group = join(
        store,
        rank=rank,
        num_ranks=num_ranks,
        device=torch.device("cpu"),
        collective_timeout_s=SPAWNED_TIMEOUT_S,
    )
    try:
        result = call(group, *args)
        if rank == 0:
            (folder / "result").write_bytes(pickle.dumps(result))
        dist.barrier()  # no rank disconnects while another still communicates
    except Exception:
        if store.add("failures", 1) == 1:
            raise  # the reason; another rank's error may be that this one is gone
    else:
        dist.destroy_process_group()
