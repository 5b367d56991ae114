import hashlib

import numpy as np
import pytest

from tests.transport.fake_world import FakeSession
from transport.paths import SOCKET_PATH


@pytest.fixture
def world(make_world, monkeypatch):
    """A world whose frames follow from its seed, its prompt and all its actions."""
    world = make_world()
    world.draws = draw
    monkeypatch.setattr(FakeSession, "_frames", draw_frames)
    return world


@pytest.fixture
def url(world, listen):
    with listen(world) as port:
        yield f"ws://127.0.0.1:{port}{SOCKET_PATH}"


def draw_frames(session):
    num_frames = 9 if session.chunk_index == 1 else 12
    shape = (num_frames, session.spec.height, session.spec.width, 3)
    return session.world.draws(shape, session)


def draw(shape, session):
    told = repr((session.seed, session.prompt, session.actions)).encode()
    seed = int.from_bytes(hashlib.sha256(told).digest()[:8], "big")
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def press(*keys):
    """An action: one bit for each key."""
    return np.array([key in keys for key in "wasdijkl"], np.int8)


@pytest.fixture(name="press")
def press_fixture():
    return press
