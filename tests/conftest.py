"""The shared server, and which tests run in one process.

Tests run in several processes (pytest-xdist). A group stays in one process, so its fixtures are
built once. A module is a group, unless a mark `xdist_group` names another one.
"""

import os

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


@pytest.fixture(scope="session")
def server():
    """One real server for all tests of this process; the groups "server" and "browser" use it.

    Its group plays four worlds at once, at any speed, and eight clients may wait. A world whose
    socket was cut soon makes room for the next test.
    """
    from benchmarks.local_server import local_server

    group = {"pace": "shared", "max_sessions": 4, "max_waiting": 8}
    with local_server({"group": group, "resume_grace_s": 3}) as running:
        yield running
