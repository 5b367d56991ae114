"""A group of two ranks, as its clients and an operator see it."""

import asyncio
import json
import re
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from transport.client import connect

pytestmark = pytest.mark.cluster

SCRIPT = [["w"], ["w"], ["w", "l"], ["l"], ["i"], ["s"], [], ["a"], ["a"]]


async def walk(server):
    init = {"seed": 3, "max_chunks": 3, "condition_inputs": {"camera_actions": SCRIPT}}
    async with connect(server.ws, **init) as client:
        return np.concatenate([chunk.frames async for chunk in client.chunks()])


def test_two_ranks_show_what_one_shows(server, pair):
    one, two = (asyncio.run(asyncio.wait_for(walk(each), 60)) for each in (server, pair))
    assert one.shape == two.shape == (33, *one.shape[1:])
    assert np.abs(one.astype(int) - two.astype(int)).max() <= 1
    assert one.std() > 1


def test_every_rank_reports_its_camera_cache(pair):
    asyncio.run(asyncio.wait_for(walk(pair), 60))
    deadline = time.monotonic() + 60
    while (found := set(re.findall(r'camera_cache_hits.*rank="(\d)".*} [1-9]', scrape()))) != {
        "0",
        "1",
    }:
        assert time.monotonic() < deadline, found
        time.sleep(1)


def scrape():
    """What Prometheus would read of the clusters on this machine."""
    text = ""
    with suppress(OSError):  # clusters come and go, and the file is theirs in turn
        targets = json.loads(Path("/tmp/ray/prom_metrics_service_discovery.json").read_text())
        for address in targets[0]["targets"]:
            with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
                text += answer.read().decode()
    return text
