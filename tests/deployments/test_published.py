"""Published layouts, written from tiny models, through the real deployments of one server."""

import asyncio
import io
import json
import time
import urllib.request

import msgspec
import numpy as np
import pytest
from PIL import Image

from benchmarks.dashboard import APPLICATIONS, ask_dashboard
from benchmarks.local_server import local_server, one_group, wait_until_ready
from deployments.build_engine import build_engine
from deployments.config import parse_args
from deployments.text_encoder import load_encoder
from lingbot.parallel.ulysses import SINGLE
from lingbot.runtime.session import SessionSpec
from tests.lingbot.checkpoint.folders import (
    tiny_tensors,
    write_alone,
    write_base,
    write_config,
    write_diffusers,
    write_parts,
    write_shards,
    write_v2_14b,
    write_v2_small,
)
from transport.client import connect
from transport.wire.errors import TransportError

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(600)]

TRANSPORT = "ServeReplica:lingbot:Transport"
NUM_CHUNKS = 10
PROMPT = "the lake at dusk"
ARGS = {"window": 12, "dtype": "float32", "threads": 1}


def write_act(folder):
    """v1's act model alone, with its parts beside it."""
    write_shards(folder, tiny_tensors(control="act"))
    write_config(folder, control_type="act")
    write_parts(folder)


# Each layout's writer, whether it needs `assets`, and its args.
LAYOUTS = {
    "v1 in its base model's folder": (write_base, False, {"preset": "v1-14b"}),
    "v1 in one file": (write_alone, True, {"preset": "v1-14b"}),
    "v1 act": (write_act, False, {"preset": "v1-14b-act"}),
    "v2 14b": (write_v2_14b, False, {"preset": "v2-14b", "variant": "reference"}),
    "v2 1.3b": (write_v2_small, True, {"preset": "v2-1.3b"}),
    "diffusers": (write_diffusers, False, {"preset": "v2-14b", "dtype": "bfloat16"}),
}


def leave_a_core(application):
    """One group, and room beside it for the TextEncoder on a machine of two cores."""
    one_group(application)
    (group,) = (d for d in application["deployments"] if d["name"] == "WorldGroup")
    group["placement_group_bundles"] = [{"CPU": 1}]


@pytest.fixture(scope="module")
def server():
    with local_server(change=leave_a_core) as running:
        yield running


def deploy(server, args):
    """Replace the world by the one of these args."""
    config = msgspec.yaml.decode((server.folder / "serve_config.yaml").read_bytes())
    config["applications"][0]["args"] = args

    def replaced():  # an old transport answers for the old world
        return {*server.descendants("ray::WorldRank"), *server.descendants(TRANSPORT)}

    before = replaced()
    ask_dashboard(server, APPLICATIONS, put=config)
    while before & replaced():
        time.sleep(0.2)
    wait_until_ready(server)


def picture(width, height):
    return Image.linear_gradient("L").convert("RGB").resize((width, height))


def png(image):
    data = io.BytesIO()
    image.save(data, "PNG")
    return data.getvalue()


def get(url):
    with urllib.request.urlopen(url) as answer:
        return json.load(answer)


async def play(url, *, image):
    """The frames of each chunk, without loss."""
    chunks = []
    script = {"camera_actions": [["w"]] * 4 * NUM_CHUNKS}
    async with connect(
        url,
        first_frame=png(image),
        prompt=PROMPT,
        seed=7,
        num_inference_steps=2,
        condition_inputs=script,
        realtime_output_format="raw",
    ) as client:
        async for chunk in client.chunks():
            chunks.append(chunk.frames)
            if len(chunks) == NUM_CHUNKS:
                break
    return chunks


def play_here(args, *, image):
    """The same chunks of an engine in this process."""
    config = parse_args(args)
    engine = build_engine(config, SINGLE)
    context = load_encoder(config).encode(PROMPT)
    spec = SessionSpec(first_frame=np.array(image), context=context, seed=7, num_steps=2)
    session = engine.open(spec)
    return [engine.step(session, ["w"] * engine.config.chunk) for _ in range(NUM_CHUNKS)]


async def open_without_picture(url):
    async with connect(url) as client:
        async for _ in client.chunks():
            break


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_plays_ten_chunks_of_the_frames_of_the_engine_alone(server, tmp_path, layout):
    write, needs_assets, own = LAYOUTS[layout]
    args = ARGS | {"weights": str(tmp_path / "model"), "sizes": ["64x48"]} | own
    write(tmp_path / "model")
    if needs_assets:
        write_parts(tmp_path / "assets")
        args["assets"] = str(tmp_path / "assets")
    deploy(server, args)
    image = picture(64, 48)
    played = asyncio.run(play(server.ws, image=image))
    expected = play_here(args, image=image)
    for frames, own_frames in zip(played, expected, strict=True):
        assert frames.shape == own_frames.shape and frames.std() > 1
        np.testing.assert_allclose(frames, own_frames.astype(int), atol=1, rtol=0)


def test_a_session_has_the_size_of_its_pictures_shape(server, tmp_path):
    write_v2_14b(tmp_path)
    sizes = {"weights": str(tmp_path), "sizes": ["64x48", "48x64"]}
    deploy(server, ARGS | {"preset": "v2-14b", "variant": "reference"} | sizes)
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
    for size, shape in (((90, 50), (48, 64, 3)), ((50, 90), (64, 48, 3))):
        chunks = asyncio.run(play(server.ws, image=picture(*size)))
        assert [frames.shape for frames in chunks] == [(13, *shape), *[(16, *shape)] * 9]
    with pytest.raises(TransportError, match="first_frame.*no opening image"):
        asyncio.run(open_without_picture(server.ws))
