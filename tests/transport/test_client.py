import asyncio
import io
import socket

import av
import numpy as np
import pytest

from transport.client import connect
from transport.client.__main__ import main
from transport.paths import SOCKET_PATH
from transport.wire.errors import Busy, TransportError
from transport.wire.messages import Warming


@pytest.fixture
def url(world, listen):
    with listen(world) as port:
        yield f"ws://127.0.0.1:{port}{SOCKET_PATH}"


def walk(url, out, *options):
    return main(["--url", url, "--out", str(out), *options])


@pytest.mark.parametrize("encoding", ["raw", "jpeg", "webp", "h264", "delta-zstd"])
def test_a_walk_is_recorded(url, world, tmp_path, capsys, encoding):
    out = tmp_path / "walk.mp4"
    assert walk(url, out, "--actions", "w-4,none-1", "--format", encoding, "--seed", "7") == 0
    assert capsys.readouterr().out == f"{out}: 17 frames, 0.28 s at 60 frames/s\n"
    with av.open(io.BytesIO(out.read_bytes())) as file:
        assert sum(1 for _ in file.decode(video=0)) == 17
    assert [actions for actions, _ in world.steps][:2] == [["w"] * 3, ["w", "", ""]]
    assert world.specs[0].seed == 7


def test_a_walk_may_start_from_an_image(url, world, tmp_path, make_png):
    image = tmp_path / "start.png"
    image.write_bytes(make_png(color=(7, 7, 7)))
    assert walk(url, tmp_path / "a.mp4", "--actions", "w-1", "--image", str(image)) == 0
    assert (world.images[0] == 7).all()


def test_a_wait_for_the_world_prints_its_reason(url, world, tmp_path, capsys):
    world.news = [Warming()]
    assert walk(url, tmp_path / "a.mp4", "--actions", "w-1") == 0
    assert capsys.readouterr().err == "the world is warming up\n"


def test_a_client_receives_frames_applied_controls_and_acks(url):
    async def scenario():
        async with connect(url, realtime_output_pacing=False) as client:
            chunks = client.chunks()
            first = await anext(chunks)
            event_id = await client.hold("w", "wl")
            await client.prompt("rain")
            async for chunk in chunks:
                if event_id in chunk.applied.event_ids:
                    break
            await client.send_actions([["s"]])
            return client, first, chunk

    client, first, chunk = asyncio.run(scenario())
    assert np.array_equal(first.frames, np.full((9, 16, 32, 3), 1, np.uint8))
    assert first.stats.num_frames == 9
    assert chunk.applied.actions[-1] == ["w", "l"]
    assert client.session.session_id == "s1"
    assert client.acked_events[0] == 1


def test_the_reason_of_an_error_is_raised(url, world):
    world.on_open = Busy("every place is taken")

    async def scenario():
        async with connect(url) as client:
            await anext(client.chunks())

    with pytest.raises(TransportError, match="every place is taken") as caught:
        asyncio.run(scenario())
    assert caught.value.code == "busy"


@pytest.mark.parametrize(
    "options, reason",
    [
        (["--actions", "q-1"], "'q-1': expected KEYS-COUNT"),
        (["--size", "0x0"], "`size`: '0x0'"),
        (["--image", "none.png"], "none.png: No such file"),
        (["--out", "none/walk.mp4"], "none is not a directory"),
    ],
)
def test_a_mistake_is_one_line_and_exit_1(url, tmp_path, capsys, options, reason):
    assert walk(url, tmp_path / "a.mp4", *options) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(f"error: {reason}")


def test_an_unreachable_server_is_one_line_and_exit_1(tmp_path, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    assert walk(f"ws://127.0.0.1:{port}/", tmp_path / "a.mp4") == 1
    assert capsys.readouterr().err.startswith(f"error: cannot reach ws://127.0.0.1:{port}/")


def test_a_url_without_a_world_is_one_line_and_exit_1(url, tmp_path, capsys):
    assert walk(url + "/none", tmp_path / "a.mp4") == 1
    assert " does not serve a world: " in capsys.readouterr().err
