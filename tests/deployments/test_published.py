"""A published layout, written from a tiny model, through the real deployments."""

import asyncio
import io
import json
import urllib.request

import pytest
from PIL import Image

from benchmarks.local_server import local_server
from tests.lingbot.checkpoint.folders import TINY, tiny_tensors, write_parts, write_shards
from tests.lingbot.tiny_umt5 import write_original
from transport.client import connect
from transport.wire.errors import TransportError

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(600)]

SIZES = ["64x48", "48x64"]


@pytest.fixture
def weights(tmp_path):
    """v2 14B's layout: shards in a folder of their own, and the other parts beside it."""
    write_shards(tmp_path / "transformers", tiny_tensors(), stem="model", total=8)
    write_parts(tmp_path)
    (tmp_path / "models_t5_umt5-xxl-enc-bf16.pth").unlink()
    write_original(tmp_path, dim=TINY.text_dim)
    return tmp_path


def picture(width, height):
    data = io.BytesIO()
    Image.linear_gradient("L").convert("RGB").resize((width, height)).save(data, "PNG")
    return data.getvalue()


def get(url):
    with urllib.request.urlopen(url) as answer:
        return json.load(answer)


async def play(url, *, image, num_chunks):
    """The shape of each chunk's frames."""
    shapes = []
    async with connect(url, first_frame=image, prompt="the lake", num_inference_steps=2) as client:
        await client.hold("w")
        async for chunk in client.chunks():
            shapes.append(chunk.frames.shape)
            if len(shapes) == num_chunks:
                break
    return shapes


async def open_without_picture(url):
    async with connect(url) as client:
        async for _ in client.chunks():
            break


def test_a_published_layout_plays_ten_chunks_at_the_shape_of_the_picture(weights):
    args = {
        "preset": "v2-14b",
        "variant": "reference",
        "weights": str(weights),
        "sizes": SIZES,
        "window": 12,
        "dtype": "float32",
        "threads": 1,
    }
    with local_server(args) as server:
        world = get(f"{server.http}/v1/world")
        for _ in range(60):  # a group answers within half a second, on a machine that is not busy
            if world["memory"] is None:
                world = get(f"{server.http}/v1/world")
        assert (world["preset"], world["sizes"]) == ("v2-14b", [[64, 48], [48, 64]])
        assert (world["max_window"], world["openings"]) == (12, [])
        planned, turned = world["memory"]["sessions"]
        assert (planned["width"], turned["width"]) == (64, 48)
        assert planned["num_fitting"] >= 4
        assert get(f"{server.http}/v1/models")["data"][0]["id"] == "v2-14b"
        for (width, height), shape in (((90, 50), (48, 64, 3)), ((50, 90), (64, 48, 3))):
            shapes = asyncio.run(play(server.ws, image=picture(width, height), num_chunks=10))
            assert shapes == [(13, *shape), *[(16, *shape)] * 9]
        with pytest.raises(TransportError, match="first_frame.*no opening image"):
            asyncio.run(open_without_picture(server.ws))
