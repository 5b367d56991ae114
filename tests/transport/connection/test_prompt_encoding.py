"""Prompts of a world that encodes them beside its chunks."""

import threading

import anyio
import pytest
from msgspec.structs import replace

from tests.waiting import wait_until
from transport.wire.errors import WorldLost

MAX_CHUNKS = 100


@pytest.fixture
def world(make_world):
    world = make_world()
    world.info = replace(world.info, encodes_prompts=True)
    return world


def start(peer):
    peer.init(extensions=True, realtime_output_pacing=False)


def next_chunk(peer):
    """The header of the next chunk. Its ack lets the world go on."""
    *before, stats = peer.read_until("chunk_stats")
    header = next(one for one in before if "applied_controls" in one)  # acks may lie between
    peer.send(type="ack", chunk_index=stats["chunk_index"])
    return header


def chunk_of(peer, event_id):
    """The next chunk in which this event takes effect."""
    for _ in range(MAX_CHUNKS):
        header = next_chunk(peer)
        if event_id in header["applied_controls"]["event_ids"]:
            return header
    raise AssertionError(f"event {event_id} is in none of {MAX_CHUNKS} chunks")


def prompts(world):
    """The prompt of each step that had one, by the number of its chunk."""
    return {number: prompt for number, (_, prompt) in enumerate(world.steps) if prompt}


def test_the_old_prompt_stays_until_the_new_one_is_encoded(peer, world):
    start(peer)
    next_chunk(peer)
    peer.event("prompt", "rain", event_id=4)
    wait_until(lambda: world.encoded == ["rain"])
    for _ in range(4):  # chunks go on
        header = next_chunk(peer)
        assert header["applied_controls"]["event_ids"] == [] and "event_id" not in header
    assert prompts(world) == {}
    world.encoding.set()
    header = chunk_of(peer, 4)
    assert prompts(world) == {header["chunk_index"]: "rain"}
    assert header["event_id"] == next_chunk(peer)["event_id"] == 4


def test_the_ack_of_an_event_does_not_wait_for_its_encoding(peer, world):
    start(peer)
    peer.event("prompt", "rain", event_id=4)
    assert peer.read_until("control_ack")[-1]["event_id"] == 4
    assert not world.encoding.is_set()


def test_the_keys_of_an_event_do_not_wait_for_its_prompt(peer, world):
    start(peer)
    keys = {"mode": "state", "transitions": [{"actions": ["w"]}]}
    kinds = ["prompt", "camera_actions"]
    payload = {"input_types": kinds, "prompt": "hail", "camera_actions": keys}
    peer.event("composite_input", payload, event_id=5)
    with_keys = chunk_of(peer, 5)
    assert with_keys["applied_controls"]["actions"][0] == ["w"] and prompts(world) == {}
    world.encoding.set()
    with_prompt = chunk_of(peer, 5)
    assert prompts(world) == {with_prompt["chunk_index"]: "hail"}


def test_of_the_prompts_that_wait_the_newest_is_encoded(peer, world):
    start(peer)
    peer.event("prompt", "rain", event_id=1)
    wait_until(lambda: world.encoded == ["rain"])
    peer.event("prompt", "hail", event_id=2)
    peer.event("prompt", "snow", event_id=3)
    peer.event("camera_actions", [["w"]], event_id=4)
    chunk_of(peer, 4)  # the events before it have been read
    world.encoding.set()
    header = chunk_of(peer, 3)
    assert world.encoded == ["rain", "snow"]
    assert prompts(world)[header["chunk_index"]] == "snow"


@pytest.mark.parametrize("extensions", [True, False])
def test_a_prompt_that_cannot_be_encoded_is_answered_and_the_old_one_stays(
    server, world, extensions
):
    world.on_encode = WorldLost("the text encoder died")
    world.encoding.set()
    world.running.clear()
    with server.dial() as peer:
        peer.init(extensions=extensions)
        peer.event("prompt", "rain", event_id=4)
        error = peer.read_until("error")[-1]
        assert (error["code"], error["field"], error["event_id"]) == ("refused", "prompt", 4)
        assert error["content"] == "the prompt stays as it was: the text encoder died"
        world.on_encode = None
        peer.event("prompt", "snow", event_id=5)
        wait_until(lambda: world.encoded == ["rain", "snow"])
        world.running.set()
        peer.read_until("chunk_stats")
        wait_until(lambda: prompts(world))
    assert list(prompts(world).values()) == ["snow"]


def test_a_client_that_leaves_ends_its_encoding(server, world):
    with server.dial() as peer:
        start(peer)
        peer.event("prompt", "rain")
        wait_until(lambda: world.encoded == ["rain"])
    wait_until(lambda: not world.live and world.num_encoding == 0)


def test_a_prompt_that_came_while_the_world_was_opened_is_encoded_too(peer, world):
    may_open, open_now = threading.Event(), world.open

    async def open_later(*args, **options):
        while not may_open.is_set():
            await anyio.sleep(0.005)
        return await open_now(*args, **options)

    world.open = open_later
    world.encoding.set()
    start(peer)
    peer.event("prompt", "rain", event_id=4)
    assert peer.read()["type"] == "control_ack" and world.encoded == []
    may_open.set()
    header = chunk_of(peer, 4)
    assert prompts(world) == {header["chunk_index"]: "rain"}


def test_a_world_that_needs_no_encoding_is_never_asked_for_one(make_world, serve):
    world = make_world()
    with serve(world) as server, server.dial() as peer:
        start(peer)
        peer.event("prompt", "rain", event_id=4)
        header = chunk_of(peer, 4)
        assert prompts(world) == {header["chunk_index"]: "rain"}
    assert world.encoded == []
