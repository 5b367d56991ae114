import pytest
import torch

from tests.lingbot.toy import make_engine, make_spec

torch.set_num_threads(1)  # these models are so small that threads only wait for each other


@pytest.fixture(scope="session")
def engine():
    """The product's engine on small random weights."""
    return make_engine()


@pytest.fixture
def spec():
    """Ask for a world; the picture is noise."""
    return make_spec
