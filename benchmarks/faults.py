"""Kills and redeploys as clients see them: `python -m benchmarks.faults`.

For each fault a walker walks the pocket world of a server of its own on loopback, and resumes its
session where its socket is lost. The fault strikes once four chunks have arrived. From then on a
new client tries again and again to open a world, and leaves after its first frame. A server that
exits is started again, as a supervisor would.

Columns: `walks on`, or the walker's last error and its time; `moved`, `resumed`: the times
at which its world has moved to another group, and goes on over another socket; the longest time
between two of its chunks; how many chunks of its world never came; the time of the new client's
first frame; the state of the server's own process; leftovers. Times are seconds since the fault.
The shipped config has no spare replica; the faults `with a spare` run beside another group and
another transport replica. Placement groups that are PENDING are what the autoscaler asks for.
Prints a table with a row for each try, then one JSON line.
"""

import argparse
import asyncio
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import psutil
from msgspec import msgpack
from websockets.asyncio.client import connect as open_socket
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from benchmarks.dashboard import APPLICATIONS, ask_dashboard, placement_groups
from benchmarks.local_server import (
    LocalServer,
    edit_config,
    free_port,
    start_server,
    stop_server,
    two_groups,
    wait_until_ready,
)
from benchmarks.machine import shared_memory
from benchmarks.printing import print_json, print_table
from transport.client import News, Reconnected, connect
from transport.wire.errors import TransportError
from transport.wire.messages import Moved

STRIKE_AFTER_CHUNKS = 4
WATCH_S = 30.0  # a walker that still walks so long after the fault has survived it
NEW_CLIENT_TIMEOUT_S = 180.0
SETTLE_S = 10.0  # before what is left over is counted
WALK: dict[str, Any] = {
    "realtime_output_format": "jpeg",
    "condition_inputs": {"camera_actions": [["w"]] * 500},
}
INIT = {"type": "init", "extensions": True} | WALK

Fault = Callable[[LocalServer], float]  # returns the time of the blow


def busiest(processes: list[psutil.Process]) -> psutil.Process:
    """The one that uses most of the CPU within a second: it has the walker."""
    for process in processes:
        process.cpu_percent()
    time.sleep(1)
    return max(processes, key=psutil.Process.cpu_percent)


def kill(name: str, *, spare: bool = False) -> Fault:
    """Kills the server's processes whose command line starts with `name`, by their ids.

    With a spare one, it kills the busiest alone.
    """

    def strike(server: LocalServer) -> float:
        victims = [
            process
            for process in server.processes()
            if (words := process.cmdline()) and Path(words[0]).name.startswith(name)
        ]
        if not victims:
            raise SystemExit(f"no process {name}")
        if spare:
            victims = [busiest(victims)]
        struck_s = time.monotonic()
        for victim in victims:
            victim.send_signal(signal.SIGKILL)
        return struck_s

    return strike


def deploy(deployment: str | None, **changes: Any) -> Fault:
    """Deploys the config with `changes` in its args, or in a deployment's own section."""

    def strike(server: LocalServer) -> float:
        config = msgspec.yaml.decode((server.folder / "serve_config.yaml").read_bytes())
        (application,) = config["applications"]
        section = application["args"]
        if deployment is not None:
            (section,) = (d for d in application["deployments"] if d["name"] == deployment)
        section |= changes
        struck_s = time.monotonic()
        ask_dashboard(server, APPLICATIONS, put=config)
        return struck_s

    return strike


FAULTS: dict[str, Fault] = {
    "kill rank": kill("ray::WorldRank"),
    "kill group replica": kill("ray::ServeReplica:lingbot:WorldGroup"),
    "kill transport replica": kill("ray::ServeReplica:lingbot:Transport"),
    "kill proxy": kill("ray::ProxyActor"),
    "kill controller": kill("ray::ServeController"),
    "kill gcs": kill("gcs_server"),
    "kill raylet": kill("raylet"),
    "kill rank, with a spare": kill("ray::WorldRank", spare=True),
    "kill transport replica, with a spare": kill("ray::ServeReplica:lingbot:Transport", spare=True),
    "deploy limits": deploy("Transport", user_config={"limits": {"max_errors": 50}}),
    "deploy limits in args": deploy(None, limits={"max_errors": 50}),
    "deploy group": deploy(None, camera_cache_bytes=64 * 2**20),
    "deploy transport": deploy("Transport", max_ongoing_requests=201),
}


@dataclass(kw_only=True)
class Walk:
    """The walker's observations."""

    arrived_s: list[float] = field(default_factory=list)
    indices: list[int] = field(default_factory=list)  # of chunks in their world
    news_s: dict[type, float] = field(default_factory=dict)  # the first of each kind
    error: TransportError | None = None
    closed_s: float | None = None  # None: still walking

    def note(self, news: News) -> None:
        self.news_s.setdefault(type(news), time.monotonic())

    @property
    def num_missing(self) -> int:
        """Chunks of the world that have not come."""
        return len(set(range(max(self.indices) + 1)) - set(self.indices))


async def walk(server: LocalServer, seen: Walk) -> None:
    """Walks until the session is over, or until cancelled."""
    try:
        async with connect(server.ws, on_news=seen.note, **WALK) as client:
            async for chunk in client.chunks():
                seen.arrived_s.append(time.monotonic())
                seen.indices.append(chunk.world_index)
    except TransportError as exc:
        seen.error = exc
    seen.closed_s = time.monotonic()


async def first_frame(server: Callable[[], LocalServer]) -> None:
    """Returns when a new client has its first frame. `server` is the one that runs now."""
    while True:
        with suppress(OSError, ConnectionClosed, InvalidHandshake, TimeoutError):
            async with asyncio.timeout(NEW_CLIENT_TIMEOUT_S):
                async with open_socket(server().ws, max_size=None, compression=None) as socket:
                    await socket.send(msgpack.encode(INIT))
                    while True:
                        message = msgpack.decode(await socket.recv(decode=False))
                        if message["type"].startswith("frame_batch"):
                            return
                        if message["type"] == "error":
                            break
        await asyncio.sleep(0.25)


class Supervisor:
    """Keeps one server running on one port, and notes when it had to start it again."""

    def __init__(self, folder: Path, *, spare: bool) -> None:
        self._folder = folder
        self._spare = spare
        self._port = free_port()
        self._started: list[psutil.Process] = []
        self.exited_s: float | None = None
        self.exit_code: int | None = None
        self.server = self._start()

    def _start(self) -> LocalServer:
        folder = Path(tempfile.mkdtemp(dir=self._folder))
        path = folder / "serve_config.yaml"
        config = edit_config(
            {},
            num_ranks=1,
            port=self._port,
            num_transports=self.num_groups,
            change=two_groups if self._spare else None,
        )
        path.write_bytes(config)
        return start_server(path, f"127.0.0.1:{self._port}")

    @property
    def num_groups(self) -> int:
        return 2 if self._spare else 1

    def note_processes(self) -> None:
        """Remember the server's processes, so that `stop` finds those that outlive it."""
        self._started += self.server.processes()

    async def run(self) -> None:
        while True:
            if (code := self.server.process.poll()) is not None:
                if self.exited_s is None:
                    self.exited_s, self.exit_code = time.monotonic(), code
                self.server = self._start()
            await asyncio.sleep(0.1)

    def stop(self) -> list[str]:
        """Stops the server. Returns the names of processes that outlived it, and kills them."""
        self.note_processes()
        stop_server(self.server)
        _, left = psutil.wait_procs(set(self._started), timeout=SETTLE_S)
        names = []
        for process in left:
            with suppress(psutil.NoSuchProcess):
                names.append(process.name())
                process.kill()
        return names


@contextmanager
def supervised(*, spare: bool) -> Iterator[tuple[Supervisor, list[str]]]:
    """A supervisor with a server that is ready, and the list of what outlives the server."""
    outlived: list[str] = []
    with tempfile.TemporaryDirectory(dir="/tmp", ignore_cleanup_errors=True) as folder:
        supervisor = Supervisor(Path(folder), spare=spare)
        try:
            wait_until_ready(supervisor.server)
            while len(supervisor.server.descendants("ray::WorldRank")) < supervisor.num_groups:
                time.sleep(0.2)
            if spare:
                time.sleep(SETTLE_S)  # the other group warms up
            supervisor.note_processes()
            yield supervisor, outlived
        finally:
            outlived += supervisor.stop()


async def observe(supervisor: Supervisor, fault: Fault) -> dict[str, Any]:
    """One try: a row of the table, without what outlived the server."""
    memory, seen = shared_memory(), Walk()
    walking = asyncio.create_task(walk(supervisor.server, seen))
    async with asyncio.timeout(120):
        while len(seen.arrived_s) < STRIKE_AFTER_CHUNKS:
            await asyncio.sleep(0.02)
    supervising = asyncio.create_task(supervisor.run())
    struck_s = await asyncio.to_thread(fault, supervisor.server)
    newcomer = asyncio.create_task(first_frame(lambda: supervisor.server))
    done, _ = await asyncio.wait([newcomer], timeout=NEW_CLIENT_TIMEOUT_S)
    newcomer_s = time.monotonic() - struck_s if done else None
    newcomer.cancel()
    await asyncio.wait([walking], timeout=max(0.0, struck_s + WATCH_S - time.monotonic()))
    walking.cancel()
    await asyncio.sleep(SETTLE_S)
    supervising.cancel()
    gaps_s = [after - before for before, after in pairwise(seen.arrived_s)]

    def since(at_s: float | None) -> float | None:
        return None if at_s is None else round(at_s - struck_s, 1)

    return {
        "walker": "walks on" if seen.closed_s is None else told(seen.error),
        "told_after_s": since(seen.closed_s),
        "moved_s": since(seen.news_s.get(Moved)),
        "resumed_s": since(seen.news_s.get(Reconnected)),
        "longest_gap_s": round(max(gaps_s), 2),
        "missing_chunks": seen.num_missing,
        "new_client_s": None if newcomer_s is None else round(newcomer_s, 1),
        "server": (
            "runs"
            if supervisor.exited_s is None
            else f"exit {supervisor.exit_code} in {supervisor.exited_s - struck_s:.1f} s"
        ),
        "left_over": left_over(supervisor.server, memory, expected=supervisor.num_groups),
    }


def told(error: TransportError | None) -> str:
    """The walker's last error."""
    return "closed" if error is None else f"{error.code} {error.close_code or ''}".strip()


def left_over(server: LocalServer, memory: set[str], *, expected: int) -> str:
    """Ranks and placement groups beyond the expected ones, and shared memory of the dead."""
    ranks = len(server.descendants("ray::WorldRank"))
    try:
        groups = Counter(placement_groups(server))
    except OSError:
        return "unknown: the cluster does not answer"
    alive = {Path(m.path).name for p in server.processes() for m in mapped(p)}
    segments = len(shared_memory() - memory - alive)
    found = {"ranks": ranks - expected, "segments": segments}
    groups["CREATED"] -= expected
    found |= {f"groups {state}": num for state, num in groups.items() if state != "REMOVED"}
    return ", ".join(f"{number} {name}" for name, number in found.items() if number) or "nothing"


def mapped(process: psutil.Process) -> list[Any]:
    try:
        return list(process.memory_maps())
    except psutil.Error:
        return []


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tries", type=int, default=3)
    parser.add_argument("--only", action="append", choices=FAULTS, help="may be repeated")
    options = parser.parse_args()
    rows: dict[str, dict[str, Any]] = {}
    for name in options.only or FAULTS:
        for number in range(options.tries):
            with supervised(spare="spare" in name) as (supervisor, outlived):
                row = asyncio.run(observe(supervisor, FAULTS[name]))
            row["outlived"] = ", ".join(outlived) or "nothing"
            rows[f"{name} {number + 1}"] = row
            print(name, number + 1, row, flush=True)
    print_table("faults", rows)
    print_json("faults", {"tries": rows})


if __name__ == "__main__":
    main()
