"""The cost and the gain of several ranks.

`python -m benchmarks.ulysses [--ranks 1 2 4] [--preset-14b]` denoises the same world, of random
weights, with 1, 2 and 4 processes of one thread each. It measures the median chunk, its seconds in
collectives, and the bytes that a rank sends to others. Collectives include packing and the wait for
slower ranks. Decoding is left out.

In theory, Ulysses sends the local tokens four times a block: q, k, v and the result. A share of
(R - 1) / R of them leaves each of R ranks. In addition, each denoising pass gathers the flow, and
the last pass sends the last block's K/V.

Prints a table, then one JSON line. --device cuda compares NCCL with one rank to no group instead.
--preset-14b does so with the shapes of the 14B model at 832x480 in bfloat16.
"""

import argparse
import gc
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
from benchmarks.printing import print_json
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
from lingbot.config import LATENT_CHANNELS, PATCH, SCHEDULE_V2, Size, WorldConfig
from lingbot.parallel.process_group import join, spawn_ranks
from lingbot.parallel.ulysses import SINGLE, SequenceParallelGroup

MB = 1e6


@dataclass(slots=True)
class Traffic:
    """The seconds of one rank's collectives, and the bytes it sent to other ranks."""

    collectives_s: float = 0.0
    sent_bytes: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class WalkRecord:
    """One rank's chunks after the warm-up."""

    chunk_s: list[float]
    traffic: list[Traffic]
    latents: Tensor  # the last chunk's


def watch_exchanges() -> Traffic:
    """Measure all exchanges of this process from now on. On a GPU each one is synchronised."""
    traffic = Traffic()
    exchange = SequenceParallelGroup._exchange

    def counted(
        group: SequenceParallelGroup, pieces: Sequence[Tensor], shapes: Sequence[tuple[int, ...]]
    ) -> list[Tensor]:
        synchronize(pieces[0].device)
        began = time.perf_counter()
        received = exchange(group, pieces, shapes)
        synchronize(pieces[0].device)
        traffic.collectives_s += time.perf_counter() - began
        leaving = [piece.nbytes for rank, piece in enumerate(pieces) if rank != group.rank]
        traffic.sent_bytes[kind_of(pieces[0])] += sum(leaving)
        return received

    SequenceParallelGroup._exchange = counted  # type: ignore[method-assign, assignment]
    return traffic


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def kind_of(piece: Tensor) -> str:
    """The exchange that a piece belongs to, by its shape; see `SequenceParallelGroup`."""
    if piece.dim() == 6:  # [K, B, F, t, h, D]
        return "attention" if len(piece) == 3 else "last_kv"
    return "attention" if piece.dim() == 5 else "flow"  # [B, F, t, h, D], or [B, F, t, C]


def theory_bytes(options: argparse.Namespace, num_ranks: int) -> dict[str, float]:
    """Bytes that a rank sends to others per chunk: the mean, because splits may be uneven."""
    shape = model_shape(options)
    world = WorldConfig(name="", sizes=(Size(options.width, options.height),), schedule=SCHEDULE_V2)
    local = world.chunk * world.size.num_tokens / num_ranks  # tokens
    size = getattr(torch, options.dtype).itemsize
    passes = len(world.schedule.indices)
    blocks = (passes + 1) * shape.num_layers - 1  # the last pass stops at the last block's K/V
    tensor_bytes, leaving = local * shape.dim * size, (num_ranks - 1) / num_ranks
    return {
        "attention": blocks * (3 + 1) * tensor_bytes * leaving,
        "last_kv": 2 * tensor_bytes * leaving,
        "flow": passes * local * LATENT_CHANNELS * PATCH**2 * size * (num_ranks - 1),
    }


def denoise_walk(group: SequenceParallelGroup, options: argparse.Namespace) -> list[WalkRecord]:
    """Denoise a walk; return the measurements of all ranks."""
    budget_bytes = int(options.budget * MIB)
    engine = make_engine(random_model(options), options, budget_bytes=budget_bytes, group=group)
    session = engine.open(random_spec(engine.config))
    num_warm = engine.config.window // engine.config.chunk  # chunks until the window is full
    traffic = watch_exchanges()
    chunk_s, by_chunk = [], []
    for index in range(num_warm + options.chunks):
        before = Traffic(traffic.collectives_s, traffic.sent_bytes.copy())
        if group.process_group is not None:
            dist.barrier(group.process_group)  # all ranks start together
        began = time.perf_counter()
        latents = engine.denoise(session, WALK[index % len(WALK)])
        chunk_s.append(time.perf_counter() - began)
        by_chunk.append(
            Traffic(
                traffic.collectives_s - before.collectives_s, traffic.sent_bytes - before.sent_bytes
            )
        )
    own = WalkRecord(chunk_s[num_warm:], by_chunk[num_warm:], latents.cpu())
    if group.num_ranks == 1:
        return [own]
    by_rank: list[Any] = [None] * group.num_ranks
    dist.all_gather_object(by_rank, own)
    return by_rank


def measure_group(
    played: list[WalkRecord], alone: list[WalkRecord], options: argparse.Namespace
) -> dict[str, Any]:
    """The figures of one number of ranks; `alone` is one rank without a group."""
    theory = theory_bytes(options, len(played))
    sent = {
        kind: statistics.mean(
            traffic.sent_bytes[kind] for rank in played for traffic in rank.traffic
        )
        for kind in theory
    }
    sent_total, theory_total = sum(sent.values()), sum(theory.values())
    chunk_s = statistics.median(played[0].chunk_s)
    in_collectives = statistics.median(
        statistics.mean(rank.traffic[index].collectives_s for rank in played)
        for index in range(options.chunks)
    )
    reference = alone[0].latents.double()
    error = (played[0].latents.double() - reference).norm() / reference.norm()
    return {
        "ranks": len(played),
        "chunk_s": round(chunk_s, 3),
        "speed_up": round(statistics.median(alone[0].chunk_s) / chunk_s, 2),
        "collectives_s": round(in_collectives, 3),
        "collectives_percent": round(100 * in_collectives / chunk_s, 1),
        "sent_mb": round(sent_total / MB, 3),
        "theory_mb": round(theory_total / MB, 3),
        "ratio": round(sent_total / theory_total, 4) if theory_total else None,
        **{f"{kind}_mb": round(sent[kind] / MB, 3) for kind in sent},
        **{f"{kind}_theory_mb": round(theory[kind] / MB, 3) for kind in theory},
        "latents_error": float(f"{error:.2g}"),
    }


def compare_processes(options: argparse.Namespace) -> list[dict[str, Any]]:
    alone = spawn_ranks(1, denoise_alone, options)
    rows = []
    for num_ranks in options.ranks:
        played = alone if num_ranks == 1 else spawn_ranks(num_ranks, denoise_walk, options)
        rows.append(measure_group(played, alone, options))
    return rows


def denoise_alone(_: SequenceParallelGroup, options: argparse.Namespace) -> list[WalkRecord]:
    return denoise_walk(SINGLE, options)


def compare_nccl(options: argparse.Namespace) -> list[dict[str, Any]]:
    """One rank without a group, then with NCCL, which sends to itself."""
    alone = denoise_walk(SINGLE, options)
    with tempfile.TemporaryDirectory() as folder:
        store = FileStore(str(Path(folder) / "rendezvous"), 1)
        group = join(store, rank=0, num_ranks=1, device=torch.device(options.device))
        gc.collect()  # frees the first engine: two of 14B do not fit
        grouped = denoise_walk(group, options)
        dist.destroy_process_group()
    peak_gib = round(torch.cuda.max_memory_allocated() / 2**30, 2)
    rows = [measure_group(played, alone, options) for played in (alone, grouped)]
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
    parser.add_argument(
        "--chunks", type=int, default=9, help="chunks after those that fill the window"
    )
    options = read_options(parser)
    machine = describe_machine()
    torch.set_num_threads(1)
    if options.device == "cuda":
        if machine["accelerator"] == "none":
            raise SystemExit("this needs a GPU")
        rows = compare_nccl(options)
    else:
        if max(options.ranks) > machine["cpus"]:
            print("more ranks than CPUs take turns: they are no faster than one rank per CPU")
        rows = compare_processes(options)
    print("median chunk; bytes that a rank sends to others, mean over the ranks")
    print_table(rows)
    shape = {name: getattr(options, name) for name in ("dim", "heads", "layers", "width", "height")}
    print_json("ulysses", {**machine, **shape, "runs": rows})


if __name__ == "__main__":
    main()
