"""What do more ranks cost and save? python -m benchmarks.ulysses [--ranks 1 2 4] [--preset-14b]

The same world, of random weights, is made by 1, 2 and 4 processes with one thread each: the
median chunk without its decoding, the seconds of it in collectives (packing and waiting for slower
ranks included), and the bytes that a rank sends to others against theory. Ulysses sends the local
tokens four times a block, q, k, v and back, and (R - 1) / R of them leave a rank of R; on top, each
denoising pass gathers the flow and the last pass sends the last block's K/V alone.

Prints a table, then one JSON line. --device cuda compares NCCL with one rank to none instead of
processes; --preset-14b does so with the shapes of the 14B model at 832x480 in bfloat16.
"""

import argparse
import gc
import json
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import FileStore  # type: ignore[attr-defined]

from benchmarks.machine import describe_machine
from benchmarks.random_world import (
    MIB,
    WALK,
    add_options,
    make_engine,
    model_shape,
    random_model,
    random_spec,
    read_options,
)
from lingbot.config import LATENT_CHANNELS, PATCH, SCHEDULE_V2, WorldConfig
from lingbot.parallel.process_group import join, spawn_ranks
from lingbot.parallel.ulysses import SINGLE, SequenceParallelGroup

MB = 1e6


@dataclass(slots=True)
class Traffic:
    """What one rank's collectives took, and sent to the other ranks."""

    seconds: float = 0.0
    sent_bytes: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class Played:
    """One rank's chunks after the warm ones."""

    chunk_s: list[float]
    traffic: list[Traffic]
    latents: Tensor  # of the last chunk


def watch_exchanges() -> Traffic:
    """Have every exchange of this process counted. On a GPU each is waited for."""
    traffic = Traffic()
    exchange = SequenceParallelGroup._exchange

    def counted(
        group: SequenceParallelGroup, pieces: Sequence[Tensor], shapes: Sequence[tuple[int, ...]]
    ) -> list[Tensor]:
        settle(pieces[0].device)
        began = time.perf_counter()
        received = exchange(group, pieces, shapes)
        settle(pieces[0].device)
        traffic.seconds += time.perf_counter() - began
        leaving = [piece.nbytes for rank, piece in enumerate(pieces) if rank != group.rank]
        traffic.sent_bytes[kind_of(pieces[0])] += sum(leaving)
        return received

    SequenceParallelGroup._exchange = counted  # type: ignore[method-assign, assignment]
    return traffic


def settle(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def kind_of(piece: Tensor) -> str:
    """Which exchange a piece belongs to, by its shape: see ``SequenceParallelGroup``."""
    if piece.dim() == 6:  # [K, B, F, t, h, D]
        return "attention" if len(piece) == 3 else "last_kv"
    return "attention" if piece.dim() == 5 else "flow"  # [B, F, t, h, D], or [B, F, t, C]


def theory_bytes(options: argparse.Namespace, num_ranks: int) -> dict[str, float]:
    """What a rank sends to others in a chunk, in the mean over the ranks: splits may be uneven."""
    shape = model_shape(options)
    world = WorldConfig(name="", width=options.width, height=options.height, schedule=SCHEDULE_V2)
    rows, columns = world.grid
    local = world.chunk * rows * columns / num_ranks  # tokens
    size = getattr(torch, options.dtype).itemsize
    passes = len(world.schedule.indices)
    blocks = (passes + 1) * shape.num_layers - 1  # the last pass stops at the last block's K/V
    token, leaving = local * shape.dim * size, (num_ranks - 1) / num_ranks
    return {
        "attention": blocks * (3 + 1) * token * leaving,
        "last_kv": 2 * token * leaving,
        "flow": passes * local * LATENT_CHANNELS * PATCH**2 * size * (num_ranks - 1),
    }


def play(group: SequenceParallelGroup, options: argparse.Namespace) -> list[Played]:
    """What each rank saw of the same chunks."""
    budget_bytes = int(options.budget * MIB)
    engine = make_engine(random_model(options), options, budget_bytes=budget_bytes, group=group)
    session = engine.open(random_spec(engine.config))
    warm = engine.config.window // engine.config.chunk  # chunks until the window is full
    traffic = watch_exchanges()
    chunk_s, by_chunk = [], []
    for index in range(warm + options.chunks):
        before = Traffic(traffic.seconds, traffic.sent_bytes.copy())
        if group.process_group is not None:
            dist.barrier(group.process_group)  # all begin together
        began = time.perf_counter()
        latents = engine.denoise(session, WALK[index % len(WALK)])
        chunk_s.append(time.perf_counter() - began)
        by_chunk.append(
            Traffic(traffic.seconds - before.seconds, traffic.sent_bytes - before.sent_bytes)
        )
    mine = Played(chunk_s[warm:], by_chunk[warm:], latents.cpu())
    if group.num_ranks == 1:
        return [mine]
    everybody: list[Any] = [None] * group.num_ranks
    dist.all_gather_object(everybody, mine)
    return everybody


def summarize(
    played: list[Played], alone: list[Played], options: argparse.Namespace
) -> dict[str, Any]:
    """One number of ranks; ``alone`` is what one rank without a group did."""
    theory = theory_bytes(options, len(played))
    sent = {
        kind: statistics.mean(
            traffic.sent_bytes[kind] for rank in played for traffic in rank.traffic
        )
        for kind in theory
    }
    whole, expected = sum(sent.values()), sum(theory.values())
    chunk_s = statistics.median(played[0].chunk_s)
    in_collectives = statistics.median(
        statistics.mean(rank.traffic[index].seconds for rank in played)
        for index in range(options.chunks)
    )
    reference = alone[0].latents.double()
    error = (played[0].latents.double() - reference).norm() / reference.norm()
    return {
        "group": len(played),
        "chunk_s": round(chunk_s, 3),
        "speed_up": round(statistics.median(alone[0].chunk_s) / chunk_s, 2),
        "collectives_s": round(in_collectives, 3),
        "collectives_percent": round(100 * in_collectives / chunk_s, 1),
        "sent_mb": round(whole / MB, 3),
        "theory_mb": round(expected / MB, 3),
        "ratio": round(whole / expected, 4) if expected else None,
        **{f"{kind}_mb": round(sent[kind] / MB, 3) for kind in sent},
        **{f"{kind}_theory_mb": round(theory[kind] / MB, 3) for kind in theory},
        "latents_error": float(f"{error:.2g}"),
    }


def compare_processes(options: argparse.Namespace) -> list[dict[str, Any]]:
    alone = spawn_ranks(1, play_alone, options)
    rows = []
    for num_ranks in options.ranks:
        played = alone if num_ranks == 1 else spawn_ranks(num_ranks, play, options)
        rows.append(summarize(played, alone, options))
    return rows


def play_alone(_: SequenceParallelGroup, options: argparse.Namespace) -> list[Played]:
    return play(SINGLE, options)


def compare_nccl(options: argparse.Namespace) -> list[dict[str, Any]]:
    """No group, then NCCL with one rank, which sends to itself."""
    alone = play(SINGLE, options)
    with tempfile.TemporaryDirectory() as folder:
        store = FileStore(str(Path(folder) / "meeting"), 1)
        group = join(store, rank=0, num_ranks=1, device=torch.device(options.device))
        gc.collect()  # the first engine must be gone: two of 14B do not fit
        grouped = play(group, options)
        dist.destroy_process_group()
    peak_gib = round(torch.cuda.max_memory_allocated() / 2**30, 2)
    rows = [summarize(played, alone, options) for played in (alone, grouped)]
    return [
        {"group": group, **row, "peak_gib": peak_gib}
        for group, row in zip(("none", "nccl"), rows, strict=True)
    ]


def print_table(rows: list[dict[str, Any]]) -> None:
    print(f"{'':24}" + "".join(f"{row.get('group', row['ranks']):>12}" for row in rows))
    for name in rows[0]:
        print(f"{name:24}" + "".join(f"{row[name]!s:>12}" for row in rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add_options(parser, dim=768, heads=12, budget=256.0, device="cpu")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--chunks", type=int, default=9, help="after those that fill the window")
    options = read_options(parser)
    machine = describe_machine()
    torch.set_num_threads(1)
    if options.device == "cuda":
        if machine["accelerator"] == "none":
            raise SystemExit("this needs a GPU")
        rows = compare_nccl(options)
    else:
        if max(options.ranks) > machine["cpus"]:
            print("more ranks than CPUs take turns, and cannot be faster than as many as CPUs")
        rows = compare_processes(options)
    print("a chunk, in the median; bytes that a rank sends to others, in the mean over the ranks")
    print_table(rows)
    shape = {name: getattr(options, name) for name in ("dim", "heads", "layers", "width", "height")}
    print(json.dumps({"benchmark": "ulysses", **machine, **shape, "runs": rows}))


if __name__ == "__main__":
    main()
