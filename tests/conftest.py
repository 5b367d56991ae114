import pytest

from benchmarks.local_server import local_server


@pytest.fixture(scope="session")
def server():
    """One real server for all tests that want one."""
    with local_server() as running:
        yield running


@pytest.fixture(autouse=True)
def no_cluster(request, monkeypatch):
    """A test that starts a cluster says so."""
    if {"cluster", "browser"} & set(request.keywords):
        return
    import ray

    def refuse(*args, **kwargs):
        raise RuntimeError("this test started a cluster; mark it `cluster`")

    monkeypatch.setattr(ray, "init", refuse)
