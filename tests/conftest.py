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

# Groups that wait most of the time start first, so that the others fill the cores meanwhile.
FIRST = ("cluster", "browser")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(item.module.__name__))
    items.sort(key=lambda item: not any(item.get_closest_marker(name) for name in FIRST))


class SharedServer:
    """A server that the tests of one group share. It ends with the group: an idle one takes CPU."""

    def __init__(self):
        self._running = ExitStack()
        self._server = None

    def get(self, start):
        if self._server is None:
            self._server = self._running.enter_context(start())
        return self._server

    def stop(self):
        self._server = None
        self._running.close()


SHARED = pytest.StashKey[SharedServer]()


def pytest_configure(config):
    config.stash[SHARED] = SharedServer()


def group_of(item):
    return item.get_closest_marker("xdist_group").args


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item, nextitem):
    if nextitem is None or group_of(nextitem) != group_of(item):
        item.config.stash[SHARED].stop()


@pytest.fixture
def shared_server(request):
    """`shared_server(start)` enters `start()` for the first test of a group, and for all of it."""
    return request.config.stash[SHARED].get


@pytest.fixture
def server(shared_server):
    """One real server for all tests of a group; "server" and "browser" use it.

    Its group plays four worlds at once, at any speed, and eight clients may wait. A world whose
    socket was cut soon makes room for the next test.
    """
    from benchmarks.local_server import local_server

    group = {"pace": "shared", "max_sessions": 4, "max_waiting": 8}
    return shared_server(lambda: local_server({"group": group, "resume_grace_s": 3}))
