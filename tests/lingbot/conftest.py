import pytest
import torch

from tests.lingbot.toy import make_engine, make_spec

torch.set_num_threads(1)  # models this small gain nothing from threads


@pytest.fixture(scope="session")
def engine():
    """The product's engine on small random weights."""
    return make_engine()


@pytest.fixture
def spec():
    """Builds requests for a session; see `toy.make_spec`."""
    return make_spec
