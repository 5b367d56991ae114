"""The cost of metrics and spans for the event loop of a transport replica, per chunk.

    python -m benchmarks.observability [--chunks 3000]

In a Ray worker, as metrics outside of one are not recorded. Spans go to a port that is closed.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import ray

from benchmarks.printing import print_json

COLUMNS = ("p50", "p95", "p99", "max")


def percentiles_us(call: Callable[[int], object], num_calls: int) -> dict[str, float]:
    """Microseconds of a call that receives its number."""
    times_us = []
    for index in range(num_calls):
        started = time.perf_counter()
        call(index)
        times_us.append(1e6 * (time.perf_counter() - started))
    times_us.sort()
    ranks = (0.5, 0.95, 0.99, 1.0)
    values = [times_us[min(num_calls - 1, int(share * num_calls))] for share in ranks]
    return dict(zip(COLUMNS, (round(value, 1) for value in values), strict=True))


def measure(num_chunks: int, *, traced: bool) -> dict[str, Any]:
    """Each chunk has everything that is counted: keys, a stall and dropped frames."""
    from deployments.observability.fan_out import FanOut
    from deployments.observability.session_metrics import TransportMetrics
    from deployments.observability.session_reports import SessionReports
    from deployments.observability.tracing import Tracing, create_provider
    from transport.observer import Client, Observer, SentChunk

    observers: list[Observer] = [TransportMetrics(), SessionReports(transport="t")]
    if traced:
        observers.append(Tracing(create_provider("http://127.0.0.1:9", instance="t")))
    observer = FanOut(observers)
    client = observer.connected(Client(), 0.0)
    client.asked(0.0)
    client.opened(0.0, "s", width=1, height=1)

    def send(index: int) -> None:
        client.sent(
            SentChunk(
                index=index,
                num_frames=12,
                num_bytes=1000,
                media_s=0.75,
                begun_s=index,
                denoised_s=index + 0.1,
                decoded_s=index + 0.2,
                encoded_s=index + 0.3,
                first_byte_s=index + 0.3,
                sent_s=index + 0.4,
                stall_s=0.1,
                dropped_frames=index,
                event_s=index - 0.1,
            )
        )

    return {
        "chunk": percentiles_us(send, num_chunks),
        "lag sample": percentiles_us(lambda index: observer.lagged(0.001), num_chunks),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chunks", type=int, default=3000)
    args = parser.parse_args()
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
    decorate: Any = ray.remote(num_cpus=0)
    remote = decorate(measure)
    found = {
        name: ray.get(remote.remote(args.chunks, traced=name != "metrics"))
        for name in ("metrics", "metrics and spans")
    }
    print(f"{'microseconds':32}" + "".join(f"{column:>10}" for column in COLUMNS))
    for name, rows in found.items():
        for row, values in rows.items():
            print(f"{name + ': ' + row:32}" + "".join(f"{values[c]:10.1f}" for c in COLUMNS))
    print_json("observability", found)


if __name__ == "__main__":
    main()
