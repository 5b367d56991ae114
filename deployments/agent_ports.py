"""The ports of a node's agents, chosen before Ray starts.

A raylet whose agents choose their own ports waits for 15 s, and then ends. No setting changes that,
and two cores that start several servers at once take longer. It does not wait for ports that it
knows, but `ray.init` has no option for most of them.
"""

import functools
import random
import socket
from typing import Any

from ray._private.node import Node
from ray._raylet import persist_port  # type: ignore[attr-defined]

NAMES = (
    "metrics_agent_port",
    "metrics_export_port",
    "dashboard_agent_listen_port",
    "runtime_env_agent_port",
)
# Below the range from which Linux takes ports for connections, so that none takes them meanwhile
FIRST, LAST = 10_000, 14_999
LOCK = 5_000  # a socket so far above a port reserves it: its agent needs seconds to take the port

_locks: list[socket.socket] = []  # held until this process ends


def choose_agent_ports() -> None:
    """Give the nodes that this process starts free ports for their agents."""
    original = Node.start_raylet

    @functools.wraps(original)
    def start_raylet(self: Any, *args: Any, **options: Any) -> None:
        ports = dict(zip(NAMES, reserve_ports(len(NAMES)), strict=True))
        self._ray_params.update(**ports)
        # The raylet reads this one from a file of the agent, even if it was given.
        name = "dashboard_agent_listen_port"
        persist_port(self.get_session_dir_path(), self.node_id, name, ports[name])
        original(self, *args, **options)

    Node.start_raylet = start_raylet  # type: ignore[method-assign]


def reserve_ports(count: int) -> list[int]:
    """Different ports that nothing listens on.

    No other process reserves them while this one runs.
    """
    ports: list[int] = []
    while len(ports) < count:
        port = random.randint(FIRST, LAST)
        lock = socket.socket()
        try:
            lock.bind(("127.0.0.1", port + LOCK))
            with socket.socket() as probe:
                probe.bind(("", port))
        except OSError:
            lock.close()
            continue
        _locks.append(lock)
        ports.append(port)
    return ports
