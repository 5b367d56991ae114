"""What do more ranks cost and save? python benchmarks/ulysses.py [--ranks 1 2 4] [--preset-14b]

First the same world, of random weights, is made by 1, 2 and 4 processes with one thread each: the
median chunk without its decoding, the seconds of it in collectives (packing and waiting for slower
ranks included), and the bytes that a rank sends to others against theory. Ulysses sends the local
tokens four times a block, q, k, v and back, and (R - 1) / R of them leave a rank of R; on top, each
denoising pass gathers the flow and the last pass sends the last block's K/V alone.

Then, on one rank, the pocket world is walked through the command queue as the transport does it,
the next chunk asked for as soon as one is denoised: when each chunk was denoised and decoded, on
one clock; the share of the decoding that took place during the next denoising; and the whole walk
against its serial twin, whose frames must be the same.

Prints tables, then one JSON line. --device cuda compares NCCL with one rank to none instead of
processes; --preset-14b does so with the shapes of the 14B model at 832x480 in bfloat16.
"""

import argparse
import gc
import json
import os
import platform
import statistics
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from random_world import (
    MIB,
    add_options,
    make_engine,
    model_shape,
    random_model,
    random_spec,
    read_options,
)
from torch import Tensor
from torch.distributed import FileStore  # type: ignore[attr-defined]

from lingbot.config import LATENT_CHANNELS, PATCH, SCHEDULE_V2, WorldConfig
from lingbot.engine import Engine
from lingbot.load import load_engine
from lingbot.lockstep import Command, Lockstep, Open, Step, Stop
from lingbot.session import SessionSpec
from lingbot.ulysses import ALONE, Ranks, join, run_ranks

MB = 1e6
# A person's walk, a chunk each.
WALK = [["w", "w", "w"], ["w", "wl", "wl"], ["l", "l", ""], ["i", "w", "wj"], ["a", "a", "s"]]


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


# ---- chunks by the number of ranks


def watch_exchanges() -> Traffic:
    """Have every exchange of this process counted. On a GPU each is waited for."""
    traffic = Traffic()
    exchange = Ranks._exchange

    def counted(
        ranks: Ranks, pieces: Sequence[Tensor], shapes: Sequence[tuple[int, ...]]
    ) -> list[Tensor]:
        settle(pieces[0].device)
        began = time.perf_counter()
        received = exchange(ranks, pieces, shapes)
        settle(pieces[0].device)
        traffic.seconds += time.perf_counter() - began
        leaving = [piece.nbytes for rank, piece in enumerate(pieces) if rank != ranks.rank]
        traffic.sent_bytes[kind_of(pieces[0])] += sum(leaving)
        return received

    Ranks._exchange = counted  # type: ignore[method-assign, assignment]
    return traffic


def settle(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def kind_of(piece: Tensor) -> str:
    """Which exchange a piece belongs to, by its shape: see ``Ranks``."""
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


def play(ranks: Ranks, options: argparse.Namespace) -> list[Played]:
    """What each rank saw of the same chunks."""
    budget_bytes = int(options.budget * MIB)
    engine = make_engine(random_model(options), options, budget_bytes=budget_bytes, ranks=ranks)
    session = engine.open(random_spec(options))
    warm = engine.config.window // engine.config.chunk  # chunks until the window is full
    traffic = watch_exchanges()
    chunk_s, by_chunk = [], []
    for index in range(warm + options.chunks):
        before = Traffic(traffic.seconds, traffic.sent_bytes.copy())
        if ranks.group is not None:
            dist.barrier(ranks.group)  # all begin together
        began = time.perf_counter()
        latents = engine.denoise(session, WALK[index % len(WALK)])
        chunk_s.append(time.perf_counter() - began)
        by_chunk.append(
            Traffic(traffic.seconds - before.seconds, traffic.sent_bytes - before.sent_bytes)
        )
    mine = Played(chunk_s[warm:], by_chunk[warm:], latents.cpu())
    if ranks.num_ranks == 1:
        return [mine]
    everybody: list[Any] = [None] * ranks.num_ranks
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
        "ranks": len(played),
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
    alone = run_ranks(1, play_alone, options)
    rows = []
    for num_ranks in options.ranks:
        played = alone if num_ranks == 1 else run_ranks(num_ranks, play, options)
        rows.append(summarize(played, alone, options))
    return rows


def play_alone(_: Ranks, options: argparse.Namespace) -> list[Played]:
    return play(ALONE, options)


def compare_nccl(options: argparse.Namespace) -> list[dict[str, Any]]:
    """No group, then NCCL with one rank, which sends to itself."""
    alone = play(ALONE, options)
    with tempfile.TemporaryDirectory() as folder:
        store = FileStore(str(Path(folder) / "meeting"), 1)
        ranks = join(store, rank=0, num_ranks=1, device=torch.device(options.device))
        gc.collect()  # the first engine must be gone: two of 14B do not fit
        grouped = play(ranks, options)
        dist.destroy_process_group()
    peak_gib = round(torch.cuda.max_memory_allocated() / 2**30, 2)
    rows = [summarize(played, alone, options) for played in (alone, grouped)]
    return [
        {"group": group, **row, "peak_gib": peak_gib}
        for group, row in zip(("none", "nccl"), rows, strict=True)
    ]


# ---- decoding beside the next denoising


Times = list[tuple[float, float]]  # begin and end of each call, seconds of one clock


@dataclass(frozen=True, slots=True)
class Walked:
    """One way through the pocket world."""

    frames: list[NDArray[np.uint8]]
    began: float
    ended: float
    denoise: Times
    decode: Times


def load_pocket(options: argparse.Namespace) -> tuple[Engine, Times, Times]:
    """The warm engine, and what will tell when it denoises and when it decodes."""
    engine = load_engine("pocket", device=options.device, camera_cache_bytes=256 * MIB)
    warm = engine.open(pocket_spec(engine))
    for actions in WALK:
        engine.step(warm, actions)
    denoise: Times = []
    decode: Times = []
    engine.denoise = clock(engine.denoise, denoise)  # type: ignore[method-assign]
    engine.decode = clock(engine.decode, decode)  # type: ignore[method-assign]
    return engine, denoise, decode


def clock(call: Callable[..., Any], times: Times) -> Callable[..., Any]:
    def clocked(*args: Any, **kwargs: Any) -> Any:
        began = time.perf_counter()
        result = call(*args, **kwargs)
        times.append((began, time.perf_counter()))
        return result

    return clocked


def pocket_spec(engine: Engine) -> SessionSpec:
    size = (engine.config.height, engine.config.width, 3)
    picture = np.random.default_rng(0).integers(0, 256, size, np.uint8)
    return SessionSpec(first_frame=picture, prompt="a meadow at noon")


def walk_in_turn(walk: Sequence[list[str]], options: argparse.Namespace) -> Walked:
    """The slow twin: a chunk is denoised and decoded, then the next."""
    engine, denoise, decode = load_pocket(options)
    session = engine.open(pocket_spec(engine))
    began = time.perf_counter()
    frames = [engine.step(session, actions) for actions in walk]
    return Walked(frames, began, time.perf_counter(), denoise, decode)


def walk_ahead(walk: Sequence[list[str]], options: argparse.Namespace) -> Walked:
    """As the transport does it: a chunk is asked for as soon as the one before is denoised."""
    engine, denoise, decode = load_pocket(options)
    lockstep = Lockstep(engine)
    thread = threading.Thread(target=lockstep.run, daemon=True)
    thread.start()

    def do(command: Command) -> Any:
        return lockstep.submit(command, due=time.monotonic()).result()

    do(Open("walk", pocket_spec(engine)))
    began = time.perf_counter()
    decoding: list[Future[NDArray[np.uint8]]] = []
    for actions in walk:
        if len(decoding) > 1:
            decoding[-2].result()  # it hands a chunk over when the one before is sent
        decoding.append(do(Step("walk", actions)))
    frames = [pictures.result() for pictures in decoding]
    ended = time.perf_counter()
    do(Stop())
    thread.join()
    return Walked(frames, began, ended, denoise, decode)


def share_inside(walked: Walked) -> float:
    """Of the time of all decoding but the last chunk's, how much lies in the next denoising."""
    pairs = list(zip(walked.decode, walked.denoise[1:], strict=False))
    inside = sum(max(0.0, min(a[1], b[1]) - max(a[0], b[0])) for a, b in pairs)
    return inside / sum(end - begin for (begin, end), _ in pairs)


def print_timeline(walked: Walked, chunks: range) -> None:
    print("\nms from the first chunk's beginning")
    print(f"{'chunk':>6}{'denoise':>20}{'decode':>20}{'of it in the next denoise':>28}")
    for index in chunks:
        calls = [walked.denoise[index], walked.decode[index]]
        spans = [f"{1000 * (a - walked.began):8.1f} ..{1000 * (b - walked.began):8.1f}"
                 for a, b in calls]  # fmt: skip
        one = share_inside(
            replace(walked, denoise=walked.denoise[index:], decode=walked.decode[index : index + 1])
        )
        print(f"{index:>6}{spans[0]:>20}{spans[1]:>20}{one:>27.0%}")


def compare_walks(options: argparse.Namespace) -> dict[str, Any]:
    """By turns, so that whatever else the machine does hits both alike."""
    walk = [WALK[index % len(WALK)] for index in range(options.timeline_chunks)]
    in_turn, ahead = [], []
    for _ in range(options.repeats):
        in_turn.append(walk_in_turn(walk, options))
        ahead.append(walk_ahead(walk, options))
    middle = len(walk) // 2
    print_timeline(ahead[-1], range(middle, min(middle + 5, len(walk) - 1)))
    return {
        "walk_chunks": len(walk),
        "serial_s": round(min(walked.ended - walked.began for walked in in_turn), 3),
        "overlapped_s": round(min(walked.ended - walked.began for walked in ahead), 3),
        "serial_denoise_ms": median_ms(walked.denoise for walked in in_turn),
        "serial_decode_ms": median_ms(walked.decode for walked in in_turn),
        "overlapped_denoise_ms": median_ms(walked.denoise for walked in ahead),
        "overlapped_decode_ms": median_ms(walked.decode for walked in ahead),
        "decode_in_next_denoise": round(statistics.mean(map(share_inside, ahead)), 3),
        "frames_identical": all(
            np.array_equal(ours, theirs)
            for walked in (*in_turn, *ahead)
            for ours, theirs in zip(walked.frames, in_turn[0].frames, strict=True)
        ),
    }


def median_ms(calls: Iterable[Times]) -> float:
    return round(1000 * statistics.median(b - a for times in calls for a, b in times), 1)


# ---- what the machine has to give


def measure_cpus(num_threads: int) -> float:
    """How many times the arithmetic of one thread this many get done now, at the same time."""
    x = torch.randn(768, 768)

    def count(_: int) -> int:
        torch.set_num_threads(1)
        end, products = time.perf_counter() + 0.5, 0
        while time.perf_counter() < end:
            x @ x
            products += 1
        return products

    with ThreadPoolExecutor(num_threads) as threads:
        rounds = [
            [sum(threads.map(count, range(num))) for num in (1, num_threads)] for _ in range(3)
        ]
    one, many = (statistics.median(products[i] for products in rounds) for i in (0, 1))
    return many / one


def print_table(rows: list[dict[str, Any]]) -> None:
    print(f"{'':24}" + "".join(f"{row.get('group', row['ranks']):>12}" for row in rows))
    for name in rows[0]:
        print(f"{name:24}" + "".join(f"{row[name]!s:>12}" for row in rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add_options(parser, dim=768, heads=12, budget=256.0, device="cpu")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--chunks", type=int, default=9, help="after those that fill the window")
    parser.add_argument("--timeline-chunks", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=3, help="of the timeline's walks")
    options = read_options(parser)
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    cpus = os.cpu_count() or 1
    worth = round(measure_cpus(cpus), 2)
    print(f"accelerator: {gpu}")
    print(f"{cpus} CPUs, worth {worth} at the moment: the most that ranks or an overlap can gain")
    torch.set_num_threads(1)
    if options.device == "cuda":
        if gpu == "none":
            raise SystemExit("this needs a GPU")
        rows = compare_nccl(options)
    else:
        if max(options.ranks) > cpus:
            print("more ranks than CPUs take turns, and cannot be faster than as many as CPUs")
        rows = compare_processes(options)
    print("a chunk, in the median; bytes that a rank sends to others, in the mean over the ranks")
    print_table(rows)
    walks = compare_walks(options)
    print()
    for name, value in walks.items():
        print(f"{name:24}{value!s:>12}")
    machine = {"cpus": cpus, "cpus_worth": worth, "processor": platform.machine()}
    machine["accelerator"] = gpu
    shape = {name: getattr(options, name) for name in ("dim", "heads", "layers", "width", "height")}
    print(json.dumps({"benchmark": "ulysses", **machine, **shape, "runs": rows, "walk": walks}))


if __name__ == "__main__":
    main()
