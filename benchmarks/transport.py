"""What does a chunk cost on its way out? python -m benchmarks.transport

Chunks of 12 frames at 832x480, from Ray's object store to a WebSocket client on loopback.

1. Encoding alone, in this process: time, bytes and PSNR of each codec, in rounds that take turns,
   beside the path of other servers (Pillow, a thread a frame, all frames joined, MessagePack).
2. Delivery to one client: from the array's arrival out of the store to the first and to the last
   frame's last byte, by uvicorn in one process and behind Serve's proxy; raw against a bare socket
   that sends the same bytes.
3. Eight clients at 16 frames/s each: how late the event loop runs, how many frames they get.

Prints tables, then one JSON line.
"""

import argparse
import asyncio
import json
import os
import platform
import statistics
from collections.abc import Mapping
from typing import Any

from benchmarks.delivery import CROWD, measure_bare, run_server, watch_many, watch_one
from benchmarks.encoding import FORMATS, measure_encoding

Row = dict[str, Any]


def show(title: str, rows: Mapping[Any, Row]) -> None:
    columns = list(next(iter(rows.values())))
    print(f"\n{title}\n{'':26}" + "".join(f"{column:>19}" for column in columns))
    for name, row in rows.items():
        print(f"{name:26}" + "".join(f"{row[column]!s:>19}" for column in columns))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--chunks", type=int, default=25)
    parser.add_argument("--crowd-s", type=float, default=8.0)
    options = parser.parse_args()
    figures: Row = {"encoding": asyncio.run(measure_encoding(options.rounds))}
    show("encoding a chunk, nothing else", figures["encoding"])
    for proxied, where in ((False, "uvicorn"), (True, "serve")):
        with run_server(proxied=proxied) as server:
            bare = [measure_bare(options.chunks)]
            one = {name: watch_one(server, name, options.chunks) for name in FORMATS}
            bare.append(measure_bare(options.chunks))
            again = watch_one(server, "raw", options.chunks)
            bare.append(measure_bare(options.chunks))
            many = {name: watch_many(server, name, options.crowd_s) for name in FORMATS}
        raw_ms = statistics.mean((one["raw"]["last_ms"], again["last_ms"]))
        ratio = round(raw_ms / statistics.median(bare), 2)
        show(f"{where}: one client", one)
        print(f"raw {raw_ms:.1f} ms, a bare socket {statistics.median(bare):.1f} ms: {ratio} x")
        show(f"{where}: {CROWD} clients", many)
        figures[where] = {"one": one, "crowd": many, "bare_ms": bare, "raw_over_bare": ratio}
    machine = {"cpus": os.cpu_count(), "processor": platform.machine()}
    print(json.dumps({"benchmark": "transport", **machine, **figures}))


if __name__ == "__main__":
    main()
