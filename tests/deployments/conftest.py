import numpy as np
import pytest

from benchmarks.local_server import local_server


@pytest.fixture(scope="session")
def pair():
    """A server whose group has two ranks, and thrice the patience that a step takes on slow cores.

    In float32: two halves of a bfloat16 product may be rounded otherwise than the whole, and a walk
    soon shows it.
    """
    args = {"dtype": "float32", "threads": 1, "step_timeout_s": 10}
    with local_server(args, num_ranks=2) as running:
        yield running


@pytest.fixture
def psnr_of():
    """Decibels, of two arrays of pixels."""

    def measure(one, other):
        return 10 * np.log10(255**2 / np.mean((one.astype(float) - other) ** 2))

    return measure


@pytest.fixture(autouse=True)
def no_cluster(request, monkeypatch):
    """A test that starts a cluster must be marked `cluster`."""
    if "cluster" in request.keywords:
        return
    import ray

    def refuse(*args, **kwargs):
        raise RuntimeError("this test started a cluster; mark it `cluster`")

    monkeypatch.setattr(ray, "init", refuse)
