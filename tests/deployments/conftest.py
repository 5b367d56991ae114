import pytest

from deployments.local import local_server


@pytest.fixture(scope="session")
def pair():
    """A server whose group has two ranks, and little patience with them."""
    with local_server({"threads": 1, "step_timeout_s": 4}, num_ranks=2) as running:
        yield running
