"""A group of two ranks: its frames and its metrics."""

import asyncio
import io
import re
import time

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.server_sample import read_metrics
from lingbot.config import PRESETS_FOLDER
from lingbot.runtime.presets import load_engine, load_text_encoder
from lingbot.runtime.session import SessionSpec
from transport.client import connect

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.xdist_group("pair")]

IMAGE = (PRESETS_FOLDER / "pocket/openings/pines.png").read_bytes()
SCRIPT = ["w", "w", "wl", "l", "i", "s", "", "a", "a"]


@pytest.fixture
def one_thread():
    """PyTorch on one thread. On busy cores, two threads wait for each other most of the time."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


async def stream(server):
    script = [list(keys) for keys in SCRIPT]
    init = {"seed": 3, "max_chunks": 3, "condition_inputs": {"camera_actions": script}}
    async with connect(server.ws, first_frame=IMAGE, prompt="a walk", **init) as client:
        return np.concatenate([chunk.frames async for chunk in client.chunks()])


def test_two_ranks_generate_the_frames_of_one_engine(pair, one_thread):
    frames = asyncio.run(asyncio.wait_for(stream(pair), 120))
    engine = load_engine("pocket", dtype=torch.float32)
    pixels = np.asarray(Image.open(io.BytesIO(IMAGE)).convert("RGB"))
    context = load_text_encoder("pocket").encode("a walk")
    session = engine.open(SessionSpec(first_frame=pixels, context=context, seed=3))
    expected = np.concatenate([engine.step(session, SCRIPT[i : i + 3]) for i in (0, 3, 6)])
    assert frames.shape == expected.shape
    assert np.abs(frames.astype(int) - expected.astype(int)).max() <= 1
    assert expected.std() > 1


def test_every_rank_reports_its_camera_cache(pair):
    asyncio.run(asyncio.wait_for(stream(pair), 120))
    deadline = time.monotonic() + 60
    while (ranks := ranks_with_hits(pair)) != {"0", "1"}:
        assert time.monotonic() < deadline, ranks
        time.sleep(1)


def ranks_with_hits(server):
    """Ranks whose hit counter is not zero, read as Prometheus would read it."""
    pattern = r'camera_cache_hits.*rank="(\d)".*} [1-9]'
    return set(re.findall(pattern, read_metrics(server)))
