"""Ports for Ray's agents. `test_serve.py` starts a cluster whose agent is slow."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from deployments import agent_ports
from deployments.agent_ports import LOCK, NAMES, choose_agent_ports, reserve_ports


@pytest.fixture(autouse=True)
def locks(monkeypatch):
    """The locks of a test, which are released after it."""
    monkeypatch.setattr(agent_ports, "_locks", taken := [])
    yield taken
    for lock in taken:
        lock.close()


def test_ports_differ_and_are_free():
    ports = reserve_ports(20)
    assert len(set(ports)) == 20
    for port in ports:
        with socket.socket() as probe:
            probe.bind(("", port))


def test_a_port_that_is_taken_is_passed_over(monkeypatch, locks):
    taken, free = draw_again(monkeypatch, locks, reserve_ports(2))
    with socket.socket() as listener:
        listener.bind(("", taken))
        assert reserve_ports(1) == [free]


def test_a_port_that_another_process_has_reserved_is_passed_over(monkeypatch, locks):
    reserved, free = draw_again(monkeypatch, locks, reserve_ports(2))
    command = f"""
from deployments import agent_ports
agent_ports.random.randint = lambda first, last: {reserved}
print(agent_ports.reserve_ports(1), flush=True)
input()
"""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", command], **pipes) as other:
        assert other.stdout.readline() == f"[{reserved}]\n".encode()
        assert reserve_ports(1) == [free]
        other.communicate(b"\n")


def draw_again(monkeypatch, locks, ports):
    """Release these ports, so that they are drawn next, in this order."""
    while locks:
        locks.pop().close()
    drawn = list(ports)
    monkeypatch.setattr(agent_ports.random, "randint", lambda first, last: drawn.pop(0))
    return ports


def test_linux_takes_none_of_these_ports_for_connections():
    first, _ = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
    assert int(first) > agent_ports.LAST + LOCK  # Linux's default is 32768


def test_a_raylet_starts_with_the_ports_of_its_agents(monkeypatch):
    class FakeNode:
        node_id = "a"
        _ray_params = {}

        def get_session_dir_path(self):
            return "/session"

        def start_raylet(self, plasma_directory):
            return started.append((plasma_directory, dict(self._ray_params), list(files)))

    started, files = [], []
    monkeypatch.setattr(agent_ports, "Node", FakeNode)
    monkeypatch.setattr(agent_ports, "persist_port", lambda *file: files.append(file))
    choose_agent_ports()
    FakeNode().start_raylet("/dev/shm")
    ((plasma_directory, ports, (file,)),) = started
    assert plasma_directory == "/dev/shm" and set(ports) == set(NAMES)
    name = "dashboard_agent_listen_port"
    assert file == ("/session", "a", name, ports[name])
