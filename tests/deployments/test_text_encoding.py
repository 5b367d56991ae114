"""A real server whose prompts a TextEncoder deployment encodes, from zero replicas on."""

import asyncio
import io
import os
import signal
import tempfile
from contextlib import contextmanager
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.local_server import (
    ROOT,
    edit_config,
    free_port,
    start_server,
    stop_server,
    wait_until_ready,
)
from deployments.config import ServiceConfig
from deployments.text_encoder import load_encoder
from lingbot.config import PRESETS
from lingbot.runtime.presets import load_engine
from lingbot.runtime.session import SessionSpec
from tests.deployments.umt5_world import POCKET, PRESET, SITE, write_world
from transport.client import connect
from transport.wire.errors import TransportError
from transport.wire.messages import Starting

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(600)]

IMAGE = (POCKET.folder / "openings/pines.png").read_bytes()
FIRST, SECOND, THIRD = "a forest at dusk", "snow &amp; the lake", "the road " * 12
ENCODER = "ServeReplica:lingbot:TextEncoder"


@contextmanager
def umt5_server(weights, folder):
    """The shipped config with these weights, and a TextEncoder that starts without a replica."""
    port = free_port()
    # Without limits: no walker is paused while an encoder starts on a busy machine.
    args = {"weights": str(weights), "dtype": "float32", "threads": 1, "limits": {}}
    config = msgspec.yaml.decode(edit_config(args, num_ranks=1, port=port))
    config["applications"][0]["deployments"].append(
        {
            "name": "TextEncoder",
            "ray_actor_options": {"num_cpus": 0},
            "autoscaling_config": {"min_replicas": 0, "max_replicas": 1, "upscale_delay_s": 0},
            "graceful_shutdown_wait_loop_s": 0.1,
        }
    )
    path = folder / "serve_config.yaml"
    path.write_bytes(msgspec.yaml.encode(config))
    server = start_server(path, f"127.0.0.1:{port}")
    try:
        wait_until_ready(server)
        yield server
    finally:
        stop_server(server)


@pytest.fixture
def weights(tmp_path):
    write_world(tmp_path)
    return tmp_path


@pytest.fixture
def server(weights):
    with tempfile.TemporaryDirectory(dir="/tmp", ignore_cleanup_errors=True) as name:
        (Path(name) / "sitecustomize.py").write_text(SITE)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PYTHONPATH", f"{name}:{ROOT}")
            with umt5_server(weights, Path(name)) as running:
                yield running


def frames_of(weights, first, changes, num_chunks):
    """The frames of an engine in this process whose prompt changes in these chunks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "pocket", PRESET)
        encoder = load_encoder(ServiceConfig(weights=str(weights)))
        engine = load_engine("pocket", weights=weights, dtype=torch.float32)
    pixels = np.asarray(Image.open(io.BytesIO(IMAGE)).convert("RGB"))
    spec = SessionSpec(first_frame=pixels, context=encoder.encode(first), seed=3)
    session = engine.open(spec)
    return [
        engine.step(
            session,
            ["", "", ""],
            context=encoder.encode(changes[index]) if index in changes else None,
        )
        for index in range(num_chunks)
    ]


def test_prompts_take_effect_in_the_chunks_that_name_their_events(server, weights):
    """From zero replicas; then a second prompt; then one while the encoder is dead."""
    assert server.descendants(ENCODER) == []
    news, chunks, changes = [], [], {}

    async def read_until(client, generator, event_id, prompt):
        async for chunk in generator:
            chunks.append(chunk)
            if event_id in chunk.applied.event_ids:
                changes[chunk.index] = prompt
                return

    async def scenario():
        async with connect(server.ws, first_frame=IMAGE, prompt=FIRST, seed=3) as client:
            news.extend([message async for message in client.wait()])
            generator = client.chunks()
            chunks.append(await anext(generator))
            await read_until(client, generator, await client.prompt(SECOND), SECOND)
            (pid,) = server.descendants(ENCODER)
            os.kill(pid, signal.SIGKILL)
            event_id = await client.prompt(THIRD)
            await read_until(client, generator, event_id, THIRD)
            chunks.append(await anext(generator))
            assert [warning.code for warning in client.warnings] == ["prompt_truncated"]
            assert "its last 9 tokens" in client.warnings[0].content

    asyncio.run(asyncio.wait_for(scenario(), 300))
    assert Starting() in news  # the cold start
    assert len(changes) == 2 and len(server.descendants(ENCODER)) == 1
    expected = frames_of(weights, FIRST, changes, len(chunks))
    for chunk, frames in zip(chunks, expected, strict=True):
        assert np.abs(chunk.frames.astype(int) - frames.astype(int)).max() <= 1
    unchanged = frames_of(weights, FIRST, {}, len(chunks))
    for index in range(min(changes), len(chunks)):
        assert np.abs(expected[index].astype(int) - unchanged[index].astype(int)).mean() > 1


def test_a_text_encoder_that_cannot_start_is_a_reason_and_no_wait(server, weights):
    path = weights / "models_t5_tiny.pth"
    path.write_bytes(path.read_bytes()[:-1000])

    async def scenario():
        async with connect(server.ws, first_frame=IMAGE, prompt=FIRST) as client:
            with pytest.raises(TransportError) as raised:
                async for _ in client.wait():
                    pass
            return str(raised.value)

    reason = asyncio.run(asyncio.wait_for(scenario(), 300))
    assert reason.startswith(f"the text encoder failed to start: WeightsError: {path}: not a whole")
