import numpy as np
import pytest

from benchmarks.local_server import local_server, one_group


def leave_room(application):
    """One group, whose ranks leave some of two cores to another application."""
    one_group(application)
    for deployment in application["deployments"]:
        for bundle in deployment.get("placement_group_bundles", ()):
            bundle["CPU"] = 0.8


@pytest.fixture
def pair(shared_server):
    """A server with one group, of two ranks, for all tests of the xdist group "pair".

    `step_timeout_s` is three times the time of a step on two slow cores. In bfloat16 two halves of
    a product may round differently from the whole, and a trajectory soon shows it; hence float32.
    """
    args = {
        "dtype": "float32",
        "threads": 1,
        "step_timeout_s": 10,
        "group": {"pace": "shared"},
        "limits": {},  # no walker is paused while a group starts on a busy machine
    }
    return shared_server("pair", lambda: local_server(args, num_ranks=2, change=leave_room))


@pytest.fixture
def psnr_of():
    """The PSNR of two arrays of uint8 pixels, in dB."""

    def psnr(one, other):
        return 10 * np.log10(255**2 / np.mean((one.astype(float) - other) ** 2))

    return psnr


@pytest.fixture(autouse=True)
def no_cluster(request, monkeypatch):
    """A test that starts a cluster must be marked `cluster`."""
    if "cluster" in request.keywords:
        return
    import ray

    def refuse(*args, **kwargs):
        raise RuntimeError("this test started a cluster; mark it `cluster`")

    monkeypatch.setattr(ray, "init", refuse)
