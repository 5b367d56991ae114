"""The figures of benchmarks.users, from a scripted server and from made-up observations."""

import asyncio
import json
import random

import pytest
from msgspec import msgpack
from websockets.asyncio.server import serve

from benchmarks import key_user
from benchmarks.key_user import Seen, use_keys
from benchmarks.local_server import LocalServer, local_server, one_group
from benchmarks.tiny_world import write_tiny_world
from benchmarks.users import come_at_random, play_together, summarize, summarize_arrivals, visit


async def play_with(handler, play):
    """Runs `play(server)` against a scripted server on a free port of loopback."""
    async with serve(handler, "127.0.0.1", 0) as listening:
        port = listening.sockets[0].getsockname()[1]
        return await play(LocalServer(f"127.0.0.1:{port}", None, None))


async def send(socket, **message):
    await socket.send(msgpack.encode(message))


async def send_chunk(socket, index, *, event_id=None):
    await send(socket, type="frame_batch", event_id=event_id, payload=b"")
    await send(socket, type="chunk_stats", chunk_index=index)


def test_a_period_with_a_pause_in_it_does_not_count():
    async def handler(socket):
        await socket.recv()
        await send(socket, type="session")
        await send_chunk(socket, 0)
        await send_chunk(socket, 1)
        await send(socket, type="paused", reason="idle")
        await send_chunk(socket, 2)  # it was on its way when the pause began
        await send(socket, type="resumed")
        await send_chunk(socket, 3)
        await send_chunk(socket, 4)
        for _ in range(5):
            await socket.recv()  # an ack of each

    seen = Seen()
    asyncio.run(play_with(handler, lambda server: use_keys(server, seen, random.Random(0))))
    assert (len(seen.arrived_s), len(seen.periods_s), seen.num_pauses) == (5, 3, 1)
    assert seen.close_code == 1000


def test_a_key_is_timed_until_a_frame_has_its_event(monkeypatch):
    monkeypatch.setattr(key_user, "HOLD_S", 0.05)
    monkeypatch.setattr(key_user, "REST_S", 0.05)
    events = []

    async def handler(socket):
        await socket.recv()
        await send(socket, type="session")
        while len(events) < 3:
            message = msgpack.decode(await socket.recv())
            if message["type"] == "event":
                events.append(message)
        await send_chunk(socket, 0, event_id=1)
        await asyncio.sleep(0.1)
        await send_chunk(socket, 1, event_id=3)

    seen = Seen()
    asyncio.run(play_with(handler, lambda server: use_keys(server, seen, random.Random(0))))
    pressed = [event["payload"]["transitions"][0]["actions"] != [] for event in events]
    assert pressed == [True, False, True]
    (first, second) = (delay_s for _, delay_s in seen.controls_s)
    assert 0.05 <= first < 5 and 0.1 <= second < 5


def test_a_refused_client_has_its_error_and_no_wait():
    async def handler(socket):
        await socket.recv()
        await send(socket, type="queued", position=1)
        await send(socket, type="starting")
        await send(socket, type="error", content="full", code="busy", retry_after_s=7)
        await socket.close(1013)

    async def play(server):
        seen = Seen()
        await visit(server, seen, random.Random(0), stay_s=60)
        return seen

    seen = asyncio.run(play_with(handler, play))
    assert seen.waited_in == ["queued", "starting"]
    assert (seen.wait_s, seen.close_code, seen.error["retry_after_s"]) == (None, 1013, 7)
    row = summarize_arrivals([seen, Seen(asked_s=1, opened_s=3)])
    assert (row["came"], row["admitted"], row["wait_p50"]) == (2, 1, 2)
    assert (row["refused"], row["told_when_to_retry"], row["admission_rate"]) == (1, 1, 0.5)


def test_a_session_keeps_real_time_if_its_chunks_take_no_longer_than_their_media():
    on_time = Seen(periods_s=[(1, 9.0), (10, 0.76), (11, 0.74)], controls_s=[(10, 0.4)])
    late = Seen(periods_s=[(10, 1.5), (11, 1.5)], num_pauses=2)
    refused = Seen(error={"code": "busy"})
    spent = {"WorldRank": 30.0, "Transport": 10.0}
    row = summarize([on_time, late, refused], since_s=5, seconds=60, spent=spent)
    assert (row["open"], row["in_real_time"], row["paused"]) == (2, 1, 2)
    assert row["period_p95"] == 2.0
    assert row["control_p50"] == 0.4
    assert (row["rank_cpu_s"], row["server_cpu_s"]) == (15.0, 20.0)
    json.dumps([row, summarize_arrivals([on_time, refused])])  # no number of numpy's


@pytest.mark.cluster
@pytest.mark.slow
def test_two_users_of_a_tiny_world_play_and_a_third_comes_at_random(tmp_path):
    args = write_tiny_world(tmp_path) | {
        "group": {"pace": "shared"},
        "limits": {"idle_after_s": 1.0},
    }
    with local_server(args, change=one_group) as server:
        row = asyncio.run(play_together(server, clients=2, seconds=10))
        assert row["open"] == 2 and row["period_p95"] > 0
        assert 0 < row["rank_cpu_s"] < row["server_cpu_s"]
        arrivals = asyncio.run(come_at_random(server, per_minute=30, seconds=5))
        assert arrivals["came"] == arrivals["admitted"] > 0
