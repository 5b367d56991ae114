"""Ports for Ray's agents. `test_serve.py` starts a cluster whose agent is slow."""

import socket
from pathlib import Path

from deployments import agent_ports
from deployments.agent_ports import NAMES, choose_agent_ports, free_ports


def test_ports_differ_and_are_free():
    ports = free_ports(20)
    assert len(set(ports)) == 20
    for port in ports:
        with socket.socket() as probe:
            probe.bind(("", port))


def test_a_port_that_is_taken_is_passed_over(monkeypatch):
    with socket.socket() as taken:
        taken.bind(("", 0))
        ports = [taken.getsockname()[1], *free_ports(1)]
        expected = ports[1:]
        monkeypatch.setattr(agent_ports.random, "randint", lambda first, last: ports.pop(0))
        assert free_ports(1) == expected


def test_linux_takes_none_of_these_ports_for_connections():
    first, _ = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
    assert int(first) > agent_ports.LAST  # Linux's default is 32768


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
