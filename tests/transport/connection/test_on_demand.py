"""Sessions that generate a chunk only when a program asks for one, on sockets of this process."""

import pytest

from tests.waiting import wait_until

ON_DEMAND = {"extensions": True, "realtime_delivery": "on_demand"}


def script(num, keys="w"):
    return [[*keys]] * num


def read_chunks(peer, num):
    """The actions of the next chunks, each acknowledged."""
    actions = []
    while len(actions) < num:
        batch = peer.read_until("chunk_stats")
        (header,) = [one for one in batch if "frame_batch_index" in one]
        actions.append(["".join(keys) for keys in header["applied_controls"]["actions"]])
        peer.send(type="ack", chunk_index=header["chunk_index"])
    return actions


def test_nothing_is_generated_before_and_after_a_script(peer, world):
    peer.init(**ON_DEMAND)
    peer.read_until("session")
    peer.event("prompt", "rain")
    peer.event("save", None, event_id=5)  # commands need no keys
    assert peer.read_until("snapshot")[-1]["world_chunk_index"] == 0
    assert world.steps == []
    peer.event("camera_actions", script(4))
    assert read_chunks(peer, 2) == [["w", "w", "w"], ["w", "", ""]]
    peer.event("save", None, event_id=6)
    assert peer.read_until("snapshot")[-1]["world_chunk_index"] == 2
    assert world.steps == [(["w"] * 3, "rain"), (["w", "", ""], None)]


def test_the_script_of_an_init_is_played(peer, world):
    peer.init(**ON_DEMAND, condition_inputs={"camera_actions": script(3, "a")})
    assert read_chunks(peer, 1) == [["a"] * 3]


def test_a_script_of_no_keys_is_a_script(peer, world):
    peer.init(**ON_DEMAND)
    peer.event("camera_actions", script(3, ""))
    assert read_chunks(peer, 1) == [["", "", ""]]


def test_a_held_key_generates_until_it_is_released(peer, world):
    peer.init(**ON_DEMAND)
    peer.event("camera_actions", {"mode": "state", "transitions": [{"actions": ["w"]}]})
    assert read_chunks(peer, 3) == [["w"] * 3] * 3
    peer.event("camera_actions", {"mode": "state", "transitions": [{"actions": []}]})
    while read_chunks(peer, 1) != [["", "", ""]]:
        pass
    num_steps = len(world.steps)
    for _ in range(2):  # the second one comes when the first has changed nothing
        peer.event("save", None)
        peer.read_until("snapshot")
    assert len(world.steps) == num_steps


def test_it_may_take_longer_than_its_frames_play(peer, world):
    peer.init(**ON_DEMAND)
    peer.read_until("session")
    assert not world.specs[0].realtime


def test_a_saved_world_keeps_the_delivery(serve, world):
    with serve(world) as server:
        with server.dial() as peer:
            peer.init(**ON_DEMAND)
            peer.event("save", None)
            data = peer.read_until("snapshot")[-1]["data"]
        with server.dial() as peer:
            peer.init(**ON_DEMAND, snapshot=data)
            peer.read_until("session")
            assert not world.specs[-1].realtime


def test_a_session_that_is_resumed_keeps_the_delivery(serve, world):
    with serve(world) as server:
        with server.dial() as peer:
            peer.init(**ON_DEMAND)
            token = peer.read_until("session")[-1]["resume_token"]
            peer.socket.close(1006)
            wait_until(lambda: world.detached)
        with server.dial() as peer:
            peer.init(**ON_DEMAND, resume=token)
            token = peer.read_until("session")[-1]["resume_token"]
            assert not world.sessions[token].spec.realtime


def test_a_program_that_thinks_for_longer_than_an_ack_may_take_is_served(serve, world):
    with serve(world, ack_timeout_s=0.2) as server, server.dial() as peer:
        peer.init(**ON_DEMAND)
        peer.read_until("session")
        for _ in range(2):  # a world without a new chunk is saved once a second
            peer.event("save", None)
            peer.read_until("snapshot")
        peer.event("camera_actions", script(3))
        assert read_chunks(peer, 1) == [["w"] * 3]


def read_until_all(peer, *kinds):
    """The messages until one of each kind has come, whatever their order is."""
    messages = []
    while not {*kinds} <= {message["type"] for message in messages}:
        messages.append(peer.read())
    return messages


def test_an_idle_one_is_paused_and_a_script_resumes_it(serve, world):
    with serve(world, idle_after_s=0.1) as server, server.dial() as peer:
        peer.init(**ON_DEMAND, condition_inputs={"camera_actions": script(3)})
        messages = read_until_all(peer, "chunk_stats", "paused")
        assert [one["reason"] for one in messages if one["type"] == "paused"] == ["idle"]
        peer.send(type="ack", chunk_index=0)
        peer.event("camera_actions", script(3, "a"))
        read_until_all(peer, "resumed", "chunk_stats")
        assert [actions for actions, _ in world.steps] == [["w"] * 3, ["a"] * 3]


@pytest.mark.parametrize("extensions", [None, False])
def test_a_plain_client_is_paced_as_ever(peer, world, extensions):
    peer.init(realtime_delivery="on_demand", extensions=extensions)
    peer.read_until("chunk_stats")
    assert world.specs[0].realtime and len(world.steps) >= 1
