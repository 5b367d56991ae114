"""What a chunk costs to deliver: servers, clients and a bare socket to compare them with."""

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
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.fast_client import FastClient
from benchmarks.local_server import free_port
from benchmarks.walking_world import CHUNK_FRAMES, MEDIA_FPS, make_chunks
from deployments.proxy import HOOK

FPS = 60  # of delivery to one client: a chunk has 200 ms to itself
LEFT_OUT = 3  # chunks, until buffers are warm
CROWD = 8
START_TIMEOUT_S = 60.0

Row = dict[str, Any]


@dataclass(frozen=True)
class Server:
    port: int
    stamps: Path

    def lag(self) -> Row:
        """Since the last call, in ms."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/lag", timeout=10) as answer:
            figures: Row = json.load(answer)
        return figures

    def arrivals(self) -> dict[str, float]:
        """When each chunk's array was there, by its request id."""
        lines = (line.split() for line in self.stamps.read_text().splitlines())
        return {name: float(at) for name, at in lines}


@contextmanager
def run_server(*, proxied: bool) -> Iterator[Server]:
    with tempfile.TemporaryDirectory() as folder:
        server = Server(free_port(), Path(folder) / "stamps")
        command = [sys.executable, "-m", "benchmarks.walking_world"]
        command += ["--port", str(server.port), "--stamps", str(server.stamps)]
        root = str(Path(__file__).parents[1])
        hook = {"RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": HOOK}
        environment = {**os.environ, "RAY_AUTH_MODE": "disabled", "PYTHONPATH": root, **hook}
        process = subprocess.Popen(
            command + ["--serve"] * proxied,
            cwd=root,
            env=environment,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        try:
            wait_until_up(server, process)
            yield server
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(30)
            finally:
                process.kill()


def wait_until_up(server: Server, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while process.poll() is None and time.monotonic() < deadline:
        try:
            server.lag()
            return
        except OSError:
            time.sleep(0.2)
    raise RuntimeError("the server did not come up")


def watch_one(server: Server, name: str, num_chunks: int) -> Row:
    """One client: ms from the array's arrival to the first and to the last frame's last byte."""
    client = FastClient(
        server.port, realtime_output_format=name, fps=FPS, max_chunks=num_chunks + LEFT_OUT
    )
    first: dict[str, float] = {}
    last: dict[str, float] = {}
    num_bytes = 0
    before = server.lag()
    while len(last) < num_chunks + LEFT_OUT:
        message, payload, now = client.receive()
        if payload is None:
            continue
        request_id = message["request_id"]
        first.setdefault(request_id, now)
        num_bytes += len(payload)
        if message["is_final_frame_batch"]:
            last[request_id] = now
            client.send(type="ack", chunk_index=message["chunk_index"])
    client.close()
    after = server.lag()
    arrived = server.arrivals()
    chosen = list(last)[LEFT_OUT:]
    return {
        "first_ms": round(median_ms(first[one] - arrived[one] for one in chosen), 2),
        "last_ms": round(median_ms(last[one] - arrived[one] for one in chosen), 2),
        "mb": round(num_bytes / len(last) / 1e6, 2),
        "cpu_ms": round(1000 * (after["cpu_s"] - before["cpu_s"]) / len(last), 1),
        "lag_ms_p99": after["p99"],
    }


def median_ms(values: Iterator[float]) -> float:
    return 1000 * statistics.median(values)


def measure_bare(num_chunks: int) -> float:
    """Median ms of a chunk's bytes through a bare socket, at the pace of the others."""
    data = make_chunks()[0].reshape(-1).data

    def send(listener: socket.socket, sent: list[float]) -> None:
        connection, _ = listener.accept()
        for _ in range(num_chunks + LEFT_OUT):
            time.sleep(CHUNK_FRAMES / FPS)
            sent.append(time.monotonic())
            connection.sendall(data)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        sent: list[float] = []
        sender = threading.Thread(target=send, args=[listener, sent])
        sender.start()
        received = []
        buffer = memoryview(bytearray(len(data)))
        with socket.create_connection(listener.getsockname()) as connection:
            for _ in range(num_chunks + LEFT_OUT):
                received_bytes = 0
                while received_bytes < len(data):
                    received_bytes += connection.recv_into(buffer[received_bytes:])
                received.append(time.monotonic())
        sender.join()
    return median_ms(b - a for a, b in zip(sent[LEFT_OUT:], received[LEFT_OUT:], strict=True))


def watch_many(server: Server, name: str, seconds: float) -> Row:
    """A crowd that walks at the pace of the media, and what it does to the loop."""
    until = time.monotonic() + seconds + 2

    def walk() -> int:
        client = FastClient(server.port, realtime_output_format=name, fps=MEDIA_FPS)
        num_frames = 0
        while time.monotonic() < until:
            message, payload, _ = client.receive()
            if payload is None:
                continue
            num_frames += message["num_frames"]
            if message["is_final_frame_batch"]:
                client.send(type="ack", chunk_index=message["chunk_index"])
        client.close()
        return num_frames

    with ThreadPoolExecutor(CROWD) as clients:
        walking = [clients.submit(walk) for _ in range(CROWD)]
        time.sleep(2)  # handshakes and first pictures
        before = server.lag()
        time.sleep(seconds)
        after = server.lag()
        num_frames = sum(one.result() for one in walking)
    return {
        "lag_ms_p50": after["p50"],
        "lag_ms_p99": after["p99"],
        "lag_ms_max": after["max"],
        "cpu_percent": round(100 * (after["cpu_s"] - before["cpu_s"]) / seconds),
        "fps_each": round(num_frames / CROWD / (seconds + 2), 1),
    }
