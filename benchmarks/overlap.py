"""The gain of decoding a chunk while the next one is denoised.

`python -m benchmarks.overlap [--device cuda]` walks through the pocket world on one rank. Its
worker receives steps as from the transport: the next one as soon as a chunk is denoised. The serial
twin decodes a chunk before it denoises the next; its frames must be the same. Denoising and
decoding have one thread each. Prints the timeline of a few chunks, a table, then one JSON line.
"""

import argparse
import statistics
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.machine import describe_machine
from benchmarks.printing import print_json
from benchmarks.random_world import MIB, WALK, random_spec
from lingbot.runtime.commands import Command, OpenSession, StepSession, Stop
from lingbot.runtime.engine import Engine
from lingbot.runtime.presets import load_engine
from lingbot.runtime.worker import Chunk, Worker

Times = list[tuple[float, float]]  # start and end of each call, in seconds of one clock


@dataclass(frozen=True, slots=True, kw_only=True)
class Walked:
    """One walk through the pocket world."""

    frames: list[NDArray[np.uint8]]
    start_s: float
    end_s: float
    denoise: Times
    decode: Times


def load_pocket(options: argparse.Namespace) -> tuple[Engine, Times, Times]:
    """A warm engine, and the lists that receive its times of denoising and of decoding."""
    engine = load_engine(
        "pocket", device=options.device, dtype=options.dtype, camera_cache_bytes=256 * MIB
    )
    warm = engine.open(random_spec(engine.config))
    for actions in WALK:
        engine.step(warm, actions)
    denoise: Times = []
    decode: Times = []
    engine.denoise = clock(engine.denoise, denoise)  # type: ignore[method-assign]
    engine.decode = clock(engine.decode, decode)  # type: ignore[method-assign]
    return engine, denoise, decode


def clock(call: Callable[..., Any], times: Times) -> Callable[..., Any]:
    """`call`, which appends its times to `times`."""

    def clocked(*args: Any, **kwargs: Any) -> Any:
        began = time.perf_counter()
        result = call(*args, **kwargs)
        times.append((began, time.perf_counter()))
        return result

    return clocked


def walk_in_turn(walk: Sequence[list[str]], options: argparse.Namespace) -> Walked:
    """The slow twin: each chunk is denoised and decoded before the next."""
    engine, denoise, decode = load_pocket(options)
    session = engine.open(random_spec(engine.config))
    start_s = time.perf_counter()
    frames = [engine.step(session, actions) for actions in walk]
    end_s = time.perf_counter()
    return Walked(frames=frames, start_s=start_s, end_s=end_s, denoise=denoise, decode=decode)


def walk_ahead(walk: Sequence[list[str]], options: argparse.Namespace) -> Walked:
    """As the transport does: a step is submitted as soon as the last one is denoised."""
    engine, denoise, decode = load_pocket(options)
    worker = Worker(engine)
    thread = threading.Thread(target=worker.run, daemon=True)
    thread.start()

    def execute(command: Command) -> Any:
        return worker.submit(command, deadline=time.monotonic()).result()

    execute(OpenSession("walk", random_spec(engine.config)))
    start_s = time.perf_counter()
    decoding: list[Future[Chunk]] = []
    for actions in walk:
        if len(decoding) > 1:
            decoding[-2].result()  # at most two chunks are in flight
        decoding.append(execute(StepSession(session_id="walk", actions=actions)))
    frames = [chunk.result()[0] for chunk in decoding]
    end_s = time.perf_counter()
    execute(Stop())
    thread.join()
    return Walked(frames=frames, start_s=start_s, end_s=end_s, denoise=denoise, decode=decode)


def share_inside(walked: Walked) -> float:
    """The share of decoding time that lies in the next denoising; the last chunk has none."""
    pairs = list(zip(walked.decode, walked.denoise[1:], strict=False))
    inside = sum(max(0.0, min(a[1], b[1]) - max(a[0], b[0])) for a, b in pairs)
    return inside / sum(end - begin for (begin, end), _ in pairs)


def print_timeline(walked: Walked, chunks: range) -> None:
    print("\nms since the start of the first chunk")
    print(f"{'chunk':>6}{'denoise':>20}{'decode':>20}{'share in next denoise':>28}")
    for index in chunks:
        calls = [walked.denoise[index], walked.decode[index]]
        spans = [f"{1000 * (a - walked.start_s):8.1f} ..{1000 * (b - walked.start_s):8.1f}"
                 for a, b in calls]  # fmt: skip
        chunk = replace(
            walked, denoise=walked.denoise[index:], decode=walked.decode[index : index + 1]
        )
        print(f"{index:>6}{spans[0]:>20}{spans[1]:>20}{share_inside(chunk):>27.0%}")


def compare_walks(options: argparse.Namespace) -> dict[str, Any]:
    """Both walks in turn, so that other load on the machine affects both."""
    walk = [WALK[index % len(WALK)] for index in range(options.timeline_chunks)]
    in_turn, ahead = [], []
    for _ in range(options.repeats):
        in_turn.append(walk_in_turn(walk, options))
        ahead.append(walk_ahead(walk, options))
    middle = len(walk) // 2
    print_timeline(ahead[-1], range(middle, min(middle + 5, len(walk) - 1)))
    return {
        "walk_chunks": len(walk),
        "serial_s": round(min(walked.end_s - walked.start_s for walked in in_turn), 3),
        "overlapped_s": round(min(walked.end_s - walked.start_s for walked in ahead), 3),
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


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--timeline-chunks", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    machine = describe_machine()
    torch.set_num_threads(1)
    options.dtype = load_engine("pocket", device=options.device).dtype  # the same in all walks
    walks = compare_walks(options)
    print()
    for name, value in walks.items():
        print(f"{name:24}{value!s:>12}")
    print_json("overlap", {**machine, **walks})


if __name__ == "__main__":
    main()
