"""A client that waits for its world, and inits that are sent before the answer to the first."""

import anyio
import pytest

from tests.transport.connection.virtual_clock import serve_on_virtual_clock
from transport.observer import NoObserver
from transport.wire.errors import Refused
from transport.wire.messages import Queued, Starting

TAKEN, OPENING = Queued(1, all_taken=True), Queued(1)


def wait_in_line(world, statuses, *, period_s):
    """Makes each open wait for these statuses first."""
    opened = world.open

    async def open_late(spec, image, *, on_wait):
        for status in statuses:
            await anyio.sleep(period_s)
            await on_wait(status)
        return await opened(spec, image, on_wait=on_wait)

    world.open = open_late


@pytest.mark.parametrize("period_s", [0.1, 0.5])
def test_a_plain_client_is_refused_after_a_second_in_line(world, monkeypatch, period_s):
    wait_in_line(world, [TAKEN] * 100, period_s=period_s)
    socket = serve_on_virtual_clock(world, {}, monkeypatch, seconds=60)
    ((at_s, error),) = socket.received
    assert at_s == pytest.approx(1.0, abs=period_s)
    text = "another realtime session is already active"
    assert (error["type"], error["content"], error["code"]) == ("error", text, "busy")
    assert socket.closed_with == (1008, text)
    assert world.live == set()


@pytest.mark.parametrize(
    "statuses, extensions",
    [
        ([TAKEN], False),  # a place comes free in time
        ([TAKEN] + [Starting()] * 9 + [TAKEN], False),
        ([OPENING] * 9, False),  # it has a place
        ([TAKEN] * 9, True),
    ],
)
def test_a_client_with_a_reason_to_wait_waits(world, monkeypatch, statuses, extensions):
    wait_in_line(world, statuses, period_s=0.5)
    init = {"max_chunks": 1, "extensions": extensions}
    received = serve_on_virtual_clock(world, init, monkeypatch, seconds=60).received
    kinds = [message["type"] for _, message in received]
    assert kinds[-2:] == ["frame_batch", "chunk_stats"] and "error" not in kinds


def test_a_plain_client_receives_nothing_while_it_waits(world, serve):
    world.news = [Queued(2), Starting()]
    with serve(world) as server, server.dial() as peer:
        peer.init(max_chunks=1)
        peer.event("prompt", "rain", event_id=1)
        kinds = [message["type"] for message in peer.read_until("chunk_stats")]
        assert kinds == ["frame_batch", "chunk_stats"]


@pytest.mark.parametrize("num_bad", [1, 3])
@pytest.mark.parametrize("bad", [{"first_frame": b"no image"}, {"first_frame": "!"}, {"fps": 0}])
def test_a_good_init_right_behind_bad_ones_plays(peer, world, bad, num_bad):
    for _ in range(num_bad):
        peer.init(**bad)
        peer.event("prompt", "of a bad one")
    peer.init(prompt="good", max_chunks=1, condition_inputs={"camera_actions": [["w"]]})
    *errors, _, _ = peer.read_until("chunk_stats")
    assert {error["type"] for error in errors} == {"error"}
    assert errors[0]["field"] == next(iter(bad))
    assert [spec.prompt for spec in world.specs] == ["good"]
    assert world.steps == [(["w", "", ""], None)]
    assert peer.close_of() == (1000, "done")


def test_a_good_init_behind_one_that_the_world_refuses_plays(peer, world):
    world.on_open = Refused("no such window")
    peer.init()
    assert peer.read()["code"] == "refused"
    opened = world.open

    async def refuse_the_first(spec, image, *, on_wait):
        world.on_open = Refused("no") if spec.prompt == "bad" else None
        return await opened(spec, image, on_wait=on_wait)

    world.open = refuse_the_first
    peer.init(prompt="bad")
    peer.init(prompt="good", max_chunks=1)
    assert [message["type"] for message in peer.read_until("chunk_stats")][0] == "error"
    assert [spec.prompt for spec in world.specs] == ["good"]


def test_the_first_of_two_good_inits_plays(peer, world):
    peer.init(prompt="first", extensions=True)
    peer.init(prompt="second")
    assert peer.read_until("error")[0]["type"] == "session"
    assert [spec.prompt for spec in world.specs] == ["first"]


@pytest.mark.parametrize("extensions", [True, False])
def test_a_client_whose_world_moves_keeps_it_and_is_told(world, monkeypatch, extensions):
    opened, waits = world.open, []

    async def open_and_move(spec, image, *, on_wait):
        session = await opened(spec, image, on_wait=on_wait)
        step = session.step

        async def step_elsewhere(actions, **more):
            for _ in range(4):
                await anyio.sleep(1)
                await on_wait(TAKEN)
            return await step(actions, **more)

        session.step = step_elsewhere
        return session

    monkeypatch.setattr(NoObserver, "waits", lambda self, status: waits.append(status))
    world.open = open_and_move
    init = {"max_chunks": 2, "extensions": extensions}
    socket = serve_on_virtual_clock(world, init, monkeypatch, seconds=60)
    kinds = [message["type"] for _, message in socket.received]
    assert kinds.count("queued") == (8 if extensions else 0)
    assert kinds.count("chunk_stats") == 2 and socket.closed_with == (1000, "done")
    assert waits == [], "the session is open for its observers"
