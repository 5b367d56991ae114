"""The cost of a chunk on its way to a client: `python -m benchmarks.transport`.

Chunks of 12 frames at 832x480, from Ray's object store to a WebSocket client on loopback.

1. Encoding alone, in this process: time, bytes and PSNR of each codec, beside Pillow in threads
   (one thread a frame, all pictures joined, MessagePack). In each round, every codec encodes once.
2. Delivery to one client: from the arrival of the array from the store to the last byte of the
   first and of the last frame. By uvicorn in one process, and behind Serve's proxy. For raw, also
   the ratio to a bare socket that sends the same bytes.
3. Eight clients at 16 frames/s each: lag of the event loop, and frames/s of each client.

Prints tables, then one JSON line.
"""

import argparse
import asyncio
import statistics
from typing import Any

from benchmarks.delivery import NUM_CLIENTS, measure_bare, measure_crowd, measure_one, run_server
from benchmarks.encoding import FORMATS, measure_encoding
from benchmarks.printing import print_json, print_table


def measure_delivery(where: str, num_chunks: int, crowd_s: float) -> dict[str, Any]:
    """Figures of one and of several clients; `where` is "uvicorn" or "serve"."""
    with run_server(proxied=where == "serve") as server:
        bare_ms = [measure_bare(num_chunks)]
        one = {name: measure_one(server, name, num_chunks) for name in FORMATS}
        bare_ms.append(measure_bare(num_chunks))
        raw_again = measure_one(server, "raw", num_chunks)
        bare_ms.append(measure_bare(num_chunks))
        crowd = {name: measure_crowd(server, name, crowd_s) for name in FORMATS}
    raw_ms = statistics.mean((one["raw"]["last_ms"], raw_again["last_ms"]))
    ratio = round(raw_ms / statistics.median(bare_ms), 2)
    print_table(f"{where}: one client", one)
    print(f"raw {raw_ms:.1f} ms, a bare socket {statistics.median(bare_ms):.1f} ms: {ratio} x")
    print_table(f"{where}: {NUM_CLIENTS} clients", crowd)
    return {"one": one, "crowd": crowd, "bare_ms": bare_ms, "raw_over_bare": ratio}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--chunks", type=int, default=25)
    parser.add_argument("--crowd-s", type=float, default=8.0)
    options = parser.parse_args()
    figures: dict[str, Any] = {"encoding": asyncio.run(measure_encoding(options.rounds))}
    print_table("encoding a chunk", figures["encoding"])
    for where in ("uvicorn", "serve"):
        figures[where] = measure_delivery(where, options.chunks, options.crowd_s)
    print_json("transport", figures)


if __name__ == "__main__":
    main()
