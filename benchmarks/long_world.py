"""A world longer than the rotary embedding's 1024 positions: `python -m benchmarks.long_world`.

Plays 1,101 latent frames on random weights, and compares chunks of the first quarter, once the
window is full, with those of the last one: time, and memory of this process. The keys turn back
once, near the end, and the table has that chunk's time, too. A CPU's time is that of this
thread, without other load. Prints a table, then one JSON line.
"""

import argparse
import statistics
import time
from typing import Any

import psutil
import torch

from benchmarks.printing import print_json, print_table
from benchmarks.random_world import MIB, WALK, add_options, make_engine, random_model, random_spec
from lingbot.runtime.engine import Engine


def play(engine: Engine, num_chunks: int) -> tuple[list[float], list[float], int]:
    """Milliseconds and MiB after each chunk, and the chunk before which the keys turned back."""
    session, process = engine.open(random_spec(engine.config)), psutil.Process()
    on_gpu = engine.device.type == "cuda"
    clock = time.perf_counter if on_gpu else time.thread_time
    chunk_ms, memory_mib, turned = [], [], -1
    for index in range(num_chunks):
        began = clock()
        engine.denoise(session, WALK[index % len(WALK)])
        chunk_ms.append(1000 * (clock() - began))
        used = torch.cuda.memory_allocated() if on_gpu else process.memory_info().rss
        memory_mib.append(used / MIB)
        if session.window.moved_back and turned < 0:
            turned = index
    return chunk_ms, memory_mib, turned


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add_options(parser, dim=128, heads=4, layers=2, width=160, height=96, device="cpu")
    parser.add_argument("--frames", type=int, default=1101, help="latent frames")
    parser.set_defaults(ffn=384, dtype="float32")
    options = parser.parse_args()
    torch.set_num_threads(1)
    engine = make_engine(random_model(options), options, budget_bytes=int(options.budget * MIB))
    chunk, window = engine.config.chunk, engine.config.window
    chunk_ms, memory_mib, turned = play(engine, options.frames // chunk)
    quarter, full = len(chunk_ms) // 4, window // chunk
    rows = {
        name: {
            "ms a chunk": round(statistics.median(chunk_ms[part]), 3),
            "MiB": round(statistics.median(memory_mib[part]), 1),
        }
        for name, part in (("first", slice(full, full + quarter)), ("last", slice(-quarter, None)))
    }
    ratios = {
        name: round(rows["last"][name] / rows["first"][name], 3) for name in ("ms a chunk", "MiB")
    }
    print_table("quarters of the world's chunks", {**rows, "ratio": ratios})
    turned_ms = round(chunk_ms[turned], 3) if turned >= 0 else None
    print(f"keys turned back before chunk {turned}, which took {turned_ms} ms")
    facts: dict[str, Any] = {"latent_frames": len(chunk_ms) * chunk, "turned_at_chunk": turned}
    facts |= {"turned_chunk_ms": turned_ms, "ratio_ms": ratios["ms a chunk"]}
    facts |= {"ratio_memory": ratios["MiB"], "rows": rows, "options": vars(options)}
    print_json("long_world", facts)


if __name__ == "__main__":
    main()
