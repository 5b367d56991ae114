"""Delivery of chunks over loopback: servers, clients, and a bare socket for comparison."""

import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.local_server import free_port
from benchmarks.printing import Row
from benchmarks.walking_world import CHUNK_FRAMES, MEDIA_FPS, make_chunks
from benchmarks.websocket_client import WebSocketClient
from deployments.proxy import HOOK

ROOT = Path(__file__).parents[1]
UNCROWDED_FPS = 60  # for a single client, whose chunk has 200 ms to itself
WARM_UP_CHUNKS = 3
WARM_UP_S = 2.0  # handshakes and first chunks of a crowd
NUM_CLIENTS = 8
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class WalkingServer:
    """A process of `benchmarks.walking_world`."""

    port: int
    arrivals_file: Path

    def read_loop(self) -> Row:
        """Lag of the event loop since the last call, in ms; the process's CPU seconds so far."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/lag", timeout=10) as answer:
            figures: Row = json.load(answer)
        return figures

    def arrivals(self) -> dict[str, float]:
        """Times at which each chunk's array arrived from the object store, by request id."""
        lines = (line.split() for line in self.arrivals_file.read_text().splitlines())
        return {request_id: float(at) for request_id, at in lines}


@contextmanager
def run_server(*, proxied: bool) -> Iterator[WalkingServer]:
    """Raises RuntimeError if the server does not answer within `START_TIMEOUT_S`."""
    with tempfile.TemporaryDirectory() as folder:
        server = WalkingServer(free_port(), Path(folder) / "arrivals")
        command = [sys.executable, "-m", "benchmarks.walking_world"]
        command += ["--port", str(server.port), "--arrivals", str(server.arrivals_file)]
        hook = {"RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": HOOK}
        process = subprocess.Popen(
            command + ["--serve"] * proxied,
            cwd=ROOT,
            env={**os.environ, "RAY_AUTH_MODE": "disabled", "PYTHONPATH": str(ROOT), **hook},
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        try:
            wait_until_up(server, process)
            yield server
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(STOP_TIMEOUT_S)
            finally:
                process.kill()


def wait_until_up(server: WalkingServer, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while process.poll() is None and time.monotonic() < deadline:
        try:
            server.read_loop()
            return
        except OSError:
            time.sleep(0.2)
    raise RuntimeError("the server did not come up")


def measure_one(server: WalkingServer, name: str, num_chunks: int) -> Row:
    """One client: ms from the array's arrival to the first and to the last frame's last byte."""
    first_s: dict[str, float] = {}
    last_s: dict[str, float] = {}
    num_bytes = 0
    before = server.read_loop()
    num_all = num_chunks + WARM_UP_CHUNKS
    init: dict[str, Any] = {
        "extensions": True,
        "realtime_output_format": name,
        "fps": UNCROWDED_FPS,
    }
    with WebSocketClient(server.port, max_chunks=num_all, **init) as client:
        for header, payload in client.batches():
            now = time.monotonic()
            request_id = header["request_id"]
            first_s.setdefault(request_id, now)
            num_bytes += len(payload)
            if header["is_final_frame_batch"]:
                last_s[request_id] = now
                client.acknowledge(header)
            if len(last_s) == num_all:
                break
    after = server.read_loop()
    arrived_s = server.arrivals()
    counted = list(last_s)[WARM_UP_CHUNKS:]
    return {
        "first_ms": round(median_ms(first_s[one] - arrived_s[one] for one in counted), 2),
        "last_ms": round(median_ms(last_s[one] - arrived_s[one] for one in counted), 2),
        "mb": round(num_bytes / num_all / 1e6, 2),
        "cpu_ms": round(1000 * (after["cpu_s"] - before["cpu_s"]) / num_all, 1),
        "lag_ms_p99": after["p99"],
    }


def median_ms(seconds: Iterable[float]) -> float:
    return 1000 * statistics.median(seconds)


def measure_bare(num_chunks: int) -> float:
    """Median ms of a chunk's bytes through a bare socket, at the pace of a single client."""
    data = make_chunks()[0].reshape(-1).data
    num_all = num_chunks + WARM_UP_CHUNKS

    def send(listener: socket.socket, sent_s: list[float]) -> None:
        connection, _ = listener.accept()
        with connection:
            for _ in range(num_all):
                time.sleep(CHUNK_FRAMES / UNCROWDED_FPS)
                sent_s.append(time.monotonic())
                connection.sendall(data)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        sent_s: list[float] = []
        sender = threading.Thread(target=send, args=[listener, sent_s])
        sender.start()
        received_s = []
        buffer = memoryview(bytearray(len(data)))
        with socket.create_connection(listener.getsockname()) as connection:
            for _ in range(num_all):
                num_read = 0
                while num_read < len(data):
                    num_read += connection.recv_into(buffer[num_read:])
                received_s.append(time.monotonic())
        sender.join()
    counted = slice(WARM_UP_CHUNKS, None)
    return median_ms(b - a for a, b in zip(sent_s[counted], received_s[counted], strict=True))


def measure_crowd(server: WalkingServer, name: str, seconds: float) -> Row:
    """Several clients at the media rate: lag of the event loop, CPU share, frames of each."""
    until = time.monotonic() + seconds + WARM_UP_S

    def count_frames() -> int:
        num_frames = 0
        init: dict[str, Any] = {
            "extensions": True,
            "realtime_output_format": name,
            "fps": MEDIA_FPS,
        }
        with WebSocketClient(server.port, **init) as client:
            for header, _ in client.batches():
                num_frames += header["num_frames"]
                if header["is_final_frame_batch"]:
                    client.acknowledge(header)
                if time.monotonic() >= until:
                    break
        return num_frames

    with ThreadPoolExecutor(NUM_CLIENTS) as threads:
        clients = [threads.submit(count_frames) for _ in range(NUM_CLIENTS)]
        time.sleep(WARM_UP_S)
        before = server.read_loop()
        time.sleep(seconds)
        after = server.read_loop()
        num_frames = sum(client.result() for client in clients)
    return {
        "lag_ms_p50": after["p50"],
        "lag_ms_p99": after["p99"],
        "lag_ms_max": after["max"],
        "cpu_percent": round(100 * (after["cpu_s"] - before["cpu_s"]) / seconds),
        "fps_each": round(num_frames / NUM_CLIENTS / (seconds + WARM_UP_S), 1),
    }
