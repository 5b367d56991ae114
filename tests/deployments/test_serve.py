"""The command that starts a server: refusals before Ray starts, and the watch over its cluster."""

import asyncio
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
import yaml
from msgspec import msgpack
from websockets.asyncio.client import connect as open_socket
from websockets.exceptions import ConnectionClosed

from benchmarks.failed_start import ABSENT, write_unfit_weights
from benchmarks.http_answer import answer_to
from benchmarks.local_server import (
    command_line,
    free_port,
    local_server,
    start_server,
    stop_server,
    wait_until_ready,
)
from deployments.config_file import read_config_file
from deployments.schema_keys import ConfigError
from deployments.serve import ENVIRONMENT, address_of, hold_port, main
from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]


def listen(host, port):
    """A server's socket, with the options of Serve's proxies."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind((host, port))
    listener.listen()
    return listener


def config_file(folder, *, port, **args):
    content = yaml.safe_load((ROOT / "serve_config.yaml").read_text())
    content["http_options"]["port"] = port
    content["applications"][0]["args"] |= args
    path = folder / "serve_config.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_a_held_port_is_refused_to_other_servers_and_free_for_our_proxy(host):
    port = free_port()
    with hold_port(host, port):
        with pytest.raises(ConfigError, match=f"cannot listen on 0.0.0.0:{port}: Address already"):
            hold_port("0.0.0.0", port)
        with listen(host, port):  # every connection reaches it, and none the holder
            for _ in range(20):
                socket.create_connection(("127.0.0.1", port), timeout=5).close()
            with pytest.raises(ConfigError, match="Address already in use"):
                hold_port("127.0.0.1", port)
    hold_port(host, port).close()


def test_a_port_is_free_again_right_after_its_connections(tmp_path):
    """Closed by the server first, a connection stays in TIME_WAIT for a minute."""
    port = free_port()
    with listen("127.0.0.1", port) as listener, socket.create_connection(("127.0.0.1", port)) as to:
        listener.accept()[0].close()
        assert to.recv(1) == b""
    hold_port("127.0.0.1", port).close()


@pytest.mark.parametrize("host", ["192.0.2.77", "no.such.host.invalid", "x" * 70])
def test_an_address_of_another_machine_is_refused(host):
    with pytest.raises(ConfigError, match=f"cannot listen on {host}:8000: ."):
        hold_port(host, 8000)


@pytest.mark.parametrize(
    "http, address",
    [
        ({"host": "0.0.0.0"}, "http://127.0.0.1:8000/"),
        ({"host": "::"}, "http://[::1]:8000/"),
        ({"host": "fd00::7"}, "http://[fd00::7]:8000/"),
        ({"ssl_certfile": __file__, "ssl_keyfile": __file__}, "https://127.0.0.1:8000/"),
    ],
)
def test_the_printed_address_is_one_that_a_browser_reaches(tmp_path, http, address):
    path = config_file(tmp_path, port=8000)
    content = yaml.safe_load(path.read_text())
    content["http_options"] |= http
    path.write_text(yaml.safe_dump(content))
    assert address_of(read_config_file(path)) == address


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"weights": "/no/such/folder"}, "applications[0].args.weights: no folder /no/such/folder"),
        ({"threats": 1}, "applications[0].args.threats: unknown key, did you mean 'threads'?"),
        ({}, "cannot listen on 127.0.0.1:{port}: Address already in use"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line_before_ray_starts(
    tmp_path, capfd, monkeypatch, change, reason
):
    for name in [*ENVIRONMENT, "RAY_ADDRESS"]:
        monkeypatch.setenv(name, "")  # restored after the command has changed it
    port = free_port()
    with listen("127.0.0.1", port):
        path = config_file(tmp_path, port=port, **change)
        assert main([str(path)]) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"{path}: ") and line.endswith(reason.format(port=port))


def test_the_command_without_a_file_prints_its_usage():
    command = [sys.executable, "-m", "deployments.serve"]
    usage = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert usage.returncode == 2 and usage.stderr.startswith("usage: python -m deployments.serve")


def test_operators_have_the_whole_list_of_variables():
    text = (ROOT / "docs/operating.md").read_text()
    for name, value in ENVIRONMENT.items():
        assert f"`{name}={value}`" in text


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.xdist_group("serve")
def test_a_start_that_serve_gives_up_is_told_to_the_terminal_to_health_and_to_clients(tmp_path):
    weights = tmp_path / "weights"
    reason = f"the world failed to start: WeightsError: {write_unfit_weights(weights)}: "

    async def last_message():
        async with open_socket(server.ws) as socket:
            await socket.send(msgpack.encode({"type": "init", "extensions": True}))
            with pytest.raises(ConnectionClosed):
                while True:
                    last = msgpack.decode(await socket.recv())
            return last, socket.close_code

    def failed():
        answer = health_of(server)
        return answer if answer and answer[1]["status"] == "failed" else None

    async def scenario():
        """Both have asked before: the server ends some seconds after it has given up."""
        polling = asyncio.to_thread(wait_until, failed, timeout_s=400, every_s=0.2)
        return await asyncio.gather(last_message(), polling)

    # Ray's paths of sockets must be short, and pytest's folders are deep.
    with tempfile.TemporaryDirectory(dir="/tmp", ignore_cleanup_errors=True) as folder:
        port = free_port()
        path = config_file(Path(folder), port=port, weights=str(weights))
        server = start_server(path, f"127.0.0.1:{port}")
        try:
            wait_until(lambda: health_of(server), every_s=0.2)
            (error, close_code), (code, health) = asyncio.run(asyncio.wait_for(scenario(), 420))
            assert server.process.wait(120) == 1
            *_, last = server.log.read_text().splitlines()
        finally:
            stop_server(server)
    assert (error["type"], close_code) == ("error", 1011)
    assert error["content"].startswith(reason) and ABSENT in error["content"]
    assert (code, health["status"], health["reason"]) == (503, "failed", error["content"])
    assert last == error["content"]


def health_of(server):
    """Status and content of an answer of a transport that is an error; None before one comes."""
    with suppress(OSError, json.JSONDecodeError):  # nobody answers at first, then Serve's proxy
        answer = answer_to(f"{server.http}/health")
        if answer.status != 200:
            return answer.status, json.loads(answer.body)
    return None


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.xdist_group("serve")
@pytest.mark.parametrize("victim", ["raylet", "gcs_server"])
def test_a_server_ends_with_a_reason_when_its_cluster_is_gone(victim):
    with local_server() as server:
        address = f"the page is open at {server.http}/"
        wait_until(lambda: address in server.log.read_text().splitlines())
        processes = server.processes()
        for process in processes:
            with suppress(psutil.NoSuchProcess):  # it has just ended
                assert process.nice() == psutil.Process().nice()
        (process,) = (each for each in processes if program_of(each) == victim)
        os.kill(process.pid, signal.SIGKILL)
        assert server.process.wait(60) == 1
        last = server.log.read_text().splitlines()[-1]
        assert last == f"the cluster is gone: its {victim} has ended, killed by SIGKILL"
        _, alive = psutil.wait_procs(processes, timeout=10)
        assert not alive
        with pytest.raises(OSError, match="refused"):
            urllib.request.urlopen(f"{server.http}/health", timeout=5)


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.xdist_group("serve")
def test_a_slow_start_of_its_agents_ends_no_cluster():
    """As on two cores beside three other servers. Ray's raylet alone gives its agents 15 s."""
    with starting_server() as (server, agent):
        agent.suspend()
        time.sleep(20)
        agent.resume()
        wait_until_ready(server)
        log = server.log.read_text()
    assert "the cluster is gone" not in log


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.xdist_group("serve")
def test_a_cluster_that_ends_before_it_is_up_ends_the_server_with_its_reason():
    """Ray's own client may be faster than our watch. Its reasons name the raylet, too."""
    with starting_server() as (server, agent):
        agent.kill()  # and its raylet ends
        assert server.process.wait(120) == 1
        *_, last = server.log.read_text().splitlines()
    assert "raylet" in last.lower(), last


@contextmanager
def starting_server():
    """A server in its start, and the agent of its raylet."""
    with tempfile.TemporaryDirectory(dir="/tmp", ignore_cleanup_errors=True) as folder:
        port = free_port()
        server = start_server(config_file(Path(folder), port=port), f"127.0.0.1:{port}")
        try:
            wait_until(lambda: agents_of(server))
            (agent,) = agents_of(server)
            yield server, agent
        finally:
            stop_server(server)


def agents_of(server):
    """The dashboard's agent, which a raylet starts. The raylet's own command line names it, too."""
    return [
        process
        for process in server.processes()
        if "dashboard/agent.py" in command_line(process)
        and program_of(process).startswith("python")
    ]


def program_of(process):
    """The file name of the program that a process runs; empty once it has ended."""
    return Path(command_line(process).partition(" ")[0]).name


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.xdist_group("serve")
def test_an_interrupt_waits_for_no_walk_and_no_clip_and_each_gets_its_reason():
    def long_sessions(application):
        for deployment in application["deployments"]:
            deployment["graceful_shutdown_timeout_s"] = 3600

    async def scenario(server):
        async with open_socket(server.ws, max_size=None) as socket:
            await socket.send(msgpack.encode({"type": "init", "extensions": True}))
            while b"chunk_stats" not in (await socket.recv())[:64]:
                pass
            clip = asyncio.create_task(asyncio.to_thread(ask_for_clip, server))
            while " as a clip of " not in server.log.read_text():
                await asyncio.sleep(0.1)
            server.process.send_signal(signal.SIGINT)
            with pytest.raises(ConnectionClosed):
                while True:
                    message = await socket.recv()
                    if is_error(message):
                        last = msgpack.decode(message)
            assert await asyncio.to_thread(server.process.wait, 120) == 0
            return last, socket.close_code, await clip

    with local_server(change=long_sessions) as server:
        processes = server.processes()
        last, close_code, clip = asyncio.run(asyncio.wait_for(scenario(server), 300))
        log = server.log.read_text().splitlines()
    assert (last["code"], last["content"]) == ("world_lost", "the server is shutting down")
    # Before the clip's first byte its client gets the reason; later the body is cut.
    assert close_code == 1012
    assert isinstance(clip, http.client.IncompleteRead) or clip.code == 503, clip
    assert log[-1] == "the server has shut down"
    assert not psutil.wait_procs(processes, timeout=10)[1]


def is_error(message):
    """True for an error message, and False for another one or the payload of a chunk."""
    return b"world_lost" in message[:200]


def ask_for_clip(server):
    """The error at which a long clip ends. Its headers have gone before, and an MP4 has no text."""
    body = json.dumps({"actions": "w-240"}).encode()
    headers = {"content-type": "application/json"}
    request = urllib.request.Request(f"{server.http}/v1/clips", body, headers)
    broken = pytest.raises((http.client.HTTPException, OSError))
    with broken as error, urllib.request.urlopen(request, timeout=60) as answer:
        answer.read()
    if isinstance(error.value, urllib.error.HTTPError):
        error.value.close()  # the garbage collector would warn of its socket in some other test
    return error.value


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.xdist_group("serve")
def test_a_second_interrupt_ends_the_server_at_once():
    with local_server() as server:
        processes = server.processes()
        server.process.send_signal(signal.SIGINT)
        wait_until(lambda: "shutting down; press Ctrl-C again" in server.log.read_text())
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(120) == 1
        last = server.log.read_text().splitlines()[-1]
        assert last == "interrupted twice: the cluster was ended at once"
        assert not psutil.wait_procs(processes, timeout=10)[1]
