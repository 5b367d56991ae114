"""First frames on their way to the world: openings, uploads and URLs."""

import gc
import threading
import time

import anyio
from msgspec import msgpack

from tests.waiting import TIMEOUT_S
from transport.wire.errors import BadMessage
from transport.wire.init import SessionRequest

FAST = {"extensions": True, "realtime_output_pacing": False}


def test_without_a_first_frame_the_first_opening_is_used(peer, world):
    peer.init()
    peer.read()
    assert (world.images[0] == [10, 20, 30]).all()


def test_a_url_is_refused_unless_its_host_is_listed(peer, make_png):
    """All presets of upstream's page send one."""
    peer.init(first_frame="https://example.com/a.png")
    error = peer.read()
    assert error["field"] == "first_frame"
    assert "this server fetches none (`image_hosts` is empty)" in error["content"]
    peer.init(first_frame=make_png())
    assert peer.read()["type"] == "frame_batch"


def test_a_first_frame_may_be_fetched(world, serve, fetcher):
    fetcher.answering.set()
    with serve(world, fetcher) as server, server.dial() as peer:
        peer.init(first_frame="https://example.com/a.png")
        assert peer.read()["type"] == "frame_batch"
    assert fetcher.asked == [("https://example.com/a.png", "first_frame")]
    assert (world.images[0] == [1, 2, 3]).all()


def test_a_client_that_leaves_cancels_its_fetch(world, serve, fetcher):
    with serve(world, fetcher) as server, server.dial() as peer:
        peer.init(first_frame="https://example.com/a.png")
        while not fetcher.asked:
            time.sleep(0.005)
    assert fetcher.cancelled
    assert world.specs == []


def test_an_upload_does_not_delay_a_live_session(make_world, serve, monkeypatch):
    uploading, release, released = (threading.Event() for _ in range(3))

    def decode_slowly(*args, **options):
        uploading.set()
        release.wait(TIMEOUT_S)
        released.set()
        raise BadMessage("not an image")

    monkeypatch.setattr("os.cpu_count", lambda: 1)
    with serve(make_world()) as server, server.dial() as player, server.dial() as stranger:
        player.init(**FAST)
        player.read_until("chunk_stats")
        monkeypatch.setattr("transport.connection.opening.decode_image", decode_slowly)
        stranger.init()
        assert uploading.wait(TIMEOUT_S)
        for index in range(3):
            player.send(type="ack", chunk_index=index)
            player.read_until("chunk_stats")
        assert not released.is_set()
        release.set()


def test_an_image_is_dropped_once_the_world_is_open(make_socket, make_world, make_png):
    def kept_images():
        requests = [one for one in gc.get_objects() if type(one) is SessionRequest]
        return [one for one in requests if one.world.prompt == "kept?" and one.first_frame]

    async def scenario():
        socket = make_socket(stuck_on=9 * 16 * 32 * 3)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(socket.serve, make_world())
            init = {"type": "init", "max_chunks": 1, "prompt": "kept?", "first_frame": make_png()}
            await socket.inbox.send(msgpack.encode(init))
            del init
            await socket.stuck.wait()
            assert kept_images() == []
            socket.release.set()

    anyio.run(scenario)
