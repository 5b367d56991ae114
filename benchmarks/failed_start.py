"""A start that Serve gives up, as its clients learn it: `python -m benchmarks.failed_start`.

The weights pass the checks of a start, and the group's rank refuses them. In the first row the
group belongs to the deploy, in the second one a client's arrival scales it from zero. Columns:
seconds from Serve's own DEPLOY_FAILED or UNHEALTHY, asked for ten times a second, to
- client, plain: the error on the open socket of a client that waits, with and without extensions
- readyz: the answer of /readyz with status 503, `failed` and the reason
- exit: the end of the server's process, for a deploy
A figure counts from the last question that Serve answered otherwise. Prints a table with a row for
each try, then one JSON line.
"""

import argparse
import asyncio
import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from msgspec import msgpack
from safetensors.numpy import load_file, save_file
from websockets.asyncio.client import connect as open_socket
from websockets.exceptions import ConnectionClosed

from benchmarks.dashboard import APPLICATIONS, ask_dashboard
from benchmarks.http_answer import answer_to
from benchmarks.local_server import LocalServer, edit_config, free_port, start_server, stop_server
from benchmarks.printing import Row, print_json, print_table
from lingbot.config import PRESETS

ABSENT = "decoder.22.weight"
POLL_S = 0.1
TIMEOUT_S = 300.0  # for three starts
GIVEN_UP = ("DEPLOY_FAILED", "UNHEALTHY")


def write_unfit_weights(folder: Path) -> Path:
    """Whole files, which pass the checks of a start. Returns the VAE's, which lacks ABSENT."""
    pocket = PRESETS["pocket"]
    assert pocket.folder is not None
    shutil.copytree(pocket.folder, folder)
    tensors = load_file(folder / pocket.vae_file)
    del tensors[ABSENT]
    save_file(tensors, folder / pocket.vae_file)
    return folder / pocket.vae_file


def one_start(application: dict[str, Any], *, min_replicas: int) -> None:
    """At most one group at a time: a `change` of the shipped config."""
    (group,) = (d for d in application["deployments"] if d["name"] == "WorldGroup")
    group["autoscaling_config"] |= {"min_replicas": min_replicas, "max_replicas": 1}


@contextmanager
def unfit_server(*, min_replicas: int) -> Iterator[LocalServer]:
    """A server that starts, and whose group cannot."""
    with tempfile.TemporaryDirectory(dir="/tmp", ignore_cleanup_errors=True) as folder:
        weights, port = Path(folder) / "weights", free_port()
        write_unfit_weights(weights)
        path = Path(folder) / "serve_config.yaml"
        change = partial(one_start, min_replicas=min_replicas)
        path.write_bytes(
            edit_config({"weights": str(weights)}, num_ranks=1, port=port, change=change)
        )
        server = start_server(path, f"127.0.0.1:{port}")
        try:
            yield server
        finally:
            stop_server(server)


def get(url: str) -> tuple[int, bytes]:
    """Status and content of an answer; status 0 while nobody answers."""
    try:
        answer = answer_to(url, timeout_s=5)
    except OSError:
        return 0, b""
    return answer.status, answer.body


async def wait_for_sockets(server: LocalServer) -> None:
    while (await asyncio.to_thread(get, f"{server.http}/healthz"))[0] != 200:
        await asyncio.sleep(POLL_S)


async def given_up_s(server: LocalServer) -> float:
    """The last time at which Serve had not given up the group."""
    last_s = time.monotonic()
    while True:
        asked_s = time.monotonic()
        answer = await asyncio.to_thread(ask_dashboard, server, APPLICATIONS)
        (application,) = answer["applications"].values()
        if application["deployments"]["WorldGroup"]["status"] in GIVEN_UP:
            return last_s
        last_s = asked_s
        await asyncio.sleep(POLL_S)


async def refused_s(server: LocalServer, *, extensions: bool) -> float:
    """The time at which a client that waits gets its error. Checks the error and the close."""
    init = {"type": "init", "prompt": "x"} | ({"extensions": True} if extensions else {})
    last, told_s = {}, 0.0
    async with open_socket(server.ws, max_size=None) as socket:
        await socket.send(msgpack.encode(init))
        try:
            while True:
                last, told_s = msgpack.decode(await socket.recv(decode=False)), time.monotonic()
        except ConnectionClosed:
            assert last["type"] == "error" and ABSENT in last["content"], last
            assert socket.close_code == 1011, socket.close_code
    return told_s


async def unready_s(server: LocalServer) -> float:
    """The time at which /readyz has the reason."""
    while True:
        status, content = await asyncio.to_thread(get, f"{server.http}/readyz")
        health = json.loads(content or "null")
        if status == 503 and health["status"] == "failed":
            assert ABSENT in health["reason"], health
            return time.monotonic()
        await asyncio.sleep(POLL_S)


async def exited_s(server: LocalServer) -> float:
    while server.process.poll() is None:
        await asyncio.sleep(POLL_S)
    return time.monotonic()


async def observe(server: LocalServer, *, ends: bool) -> Row:
    """One try: a row of the table."""
    async with asyncio.timeout(TIMEOUT_S):
        await wait_for_sockets(server)
        waits = [
            given_up_s(server),
            refused_s(server, extensions=True),
            refused_s(server, extensions=False),
            unready_s(server),
        ]
        began_s, *told_s = await asyncio.gather(*waits)
        if ends:
            told_s.append(await exited_s(server))
    columns = ("client_s", "plain_s", "readyz_s", "exit_s")
    return dict.fromkeys(columns) | {
        column: round(each_s - began_s, 1) for column, each_s in zip(columns, told_s, strict=False)
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tries", type=int, default=3)
    options = parser.parse_args()
    rows: dict[str, Row] = {}
    for name, min_replicas in (("deploy", 1), ("from zero", 0)):
        for number in range(options.tries):
            with unfit_server(min_replicas=min_replicas) as server:
                row = asyncio.run(observe(server, ends=min_replicas > 0))
            rows[f"{name} {number + 1}"] = row
            print(name, number + 1, row, flush=True)
    print_table("seconds since Serve gave up", rows)
    print_json("failed_start", {"tries": rows})


if __name__ == "__main__":
    main()
