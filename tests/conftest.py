"""The shared servers, and which tests run in one process.

Tests run in several processes (pytest-xdist). A group stays in one process, so its fixtures are
built once. A module is a group, unless a mark `xdist_group` names another one.
"""

import os
from contextlib import ExitStack

import pytest

# Several processes share the cores: a second thread of torch would mostly spin. Set before torch
# is imported, and inherited by the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# The first test of a group waits for its server, whose start takes minutes on a busy machine.
SERVER_TIMEOUT_S = 600
# These wait most of the time, those of clusters longest. They start first, so that the others fill
# the cores meanwhile.
WITH_SERVER = ("cluster", "browser")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(item.module.__name__))
        if kind_of_server(item) < len(WITH_SERVER) and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(SERVER_TIMEOUT_S))
    items.sort(key=kind_of_server)


def kind_of_server(item):
    """The index in WITH_SERVER of the first mark that a test has; its length for none."""
    marks = [item.get_closest_marker(name) for name in WITH_SERVER]
    return next((kind for kind, mark in enumerate(marks) if mark), len(WITH_SERVER))


class SharedServers:
    """Servers that the tests of one group share. They end with the group: idle ones take CPU."""

    def __init__(self):
        self._running = ExitStack()
        self._servers = {}

    def get(self, name, start):
        if name not in self._servers:
            self._servers[name] = self._running.enter_context(start())
        return self._servers[name]

    def stop(self):
        self._servers.clear()
        self._running.close()


SHARED = pytest.StashKey[SharedServers]()


def pytest_configure(config):
    config.stash[SHARED] = SharedServers()


def group_of(item):
    return item.get_closest_marker("xdist_group").args


# Wrappers stop the servers after all fixtures have ended, also when one of those raises.
@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item, nextitem):
    try:
        return (yield)
    finally:
        if nextitem is None or group_of(nextitem) != group_of(item):
            item.config.stash[SHARED].stop()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session):
    """After Ctrl-C in a test, no teardown comes before this."""
    try:
        return (yield)
    finally:
        session.config.stash[SHARED].stop()


@pytest.fixture
def shared_server(request):
    """`shared_server(name, start)` enters `start()` for the first test of a group, for all of it.

    `name` is the caller's: each fixture has a server of its own.
    """
    return request.config.stash[SHARED].get


@pytest.fixture
def server(shared_server):
    """One real server for all tests of a group; "server" and "browser" use it.

    Its group plays four worlds at once, at any speed, and eight clients may wait. The world of a
    cut socket waits for a client that a busy machine delays, and makes room for the next test.
    """
    from benchmarks.local_server import local_server

    group = {"pace": "shared", "max_sessions": 4, "max_waiting": 8}
    return shared_server("server", lambda: local_server({"group": group, "resume_grace_s": 15}))
