"""Random commands, keys, prompts and pauses on a clock that jumps: what a client may rely on."""

import random

import pytest

from tests.transport.connection.virtual_clock import serve_on_virtual_clock, take_time

FPS = 16
SECONDS = 120
ANSWERS = {"save": "snapshot", "fork": "forked", "rewind": "rewound", "reset": "rewound"}


def random_event(rng):
    kind = rng.choice([*ANSWERS, "camera_actions", "prompt", "visibility", "key_frame"])
    payload = {
        "rewind": lambda: rng.choice(
            [{"chunk_index": rng.randrange(40)}, {"seconds": rng.uniform(0.1, 20)}]
        ),
        "reset": lambda: rng.choice([None, {"seed": rng.randrange(9)}, {"prompt": "snow"}]),
        "camera_actions": lambda: [["w"]] * rng.randrange(20),
        "prompt": lambda: "rain",
        "visibility": lambda: rng.choice(["hidden", "visible"]),
    }.get(kind, lambda: None)()
    return {"kind": kind, "payload": payload}


def answers_of(received, event_id):
    """The messages that answer one event, in their order."""
    named = [message for message in received if message.get("event_id") == event_id]
    return [one["type"] for one in named if one["type"] in {"error", *ANSWERS.values()}]


def check_indices(received):
    """Wire indices count up, but for dropped chunks; those of the world follow the rewinds."""
    world_index, newest, is_turned_back = -1, -1, False
    for message in received:
        if message["type"] == "rewound":
            world_index, is_turned_back = message["world_chunk_index"] - 1, True
        if message["type"].startswith("frame_batch"):
            step = message["chunk_index"] - newest
            assert step >= 1
            if not message.get("dropped_frames"):
                assert step == 1
            if step == 1 or not is_turned_back:
                assert message["world_chunk_index"] == world_index + step
            assert message["num_frames"] == (12 if message["world_chunk_index"] else 9)
            newest, world_index = message["chunk_index"], message["world_chunk_index"]
            is_turned_back = False


@pytest.mark.parametrize("delivery", ["all", "latest"])
@pytest.mark.parametrize("seed", range(6))
def test_every_command_is_answered_once_and_the_indices_add_up(
    make_world, monkeypatch, seed, delivery
):
    rng = random.Random(f"{seed} {delivery}")
    world = make_world()
    sessions = take_time(world, fps=FPS, denoising_s=0.4, decoding_s=0.3, command_s=0.7)
    events, at_s = [], 0.0
    while at_s < SECONDS - 30:
        at_s += rng.expovariate(0.7)
        events.append((at_s, random_event(rng) | {"event_id": len(events)}))
    events.append((SECONDS - 25, {"kind": "visibility", "payload": "visible"}))
    init = {
        "fps": FPS,
        "extensions": True,
        "realtime_delivery": delivery,
        "realtime_cut_over": rng.random() < 0.5,
    }
    socket = serve_on_virtual_clock(
        world,
        init,
        monkeypatch,
        seconds=SECONDS,
        events=events,
        acknowledges=rng.random() < 0.8 or delivery == "all",
        ack_timeout_s=1000,
        idle_after_s=8,
    )
    assert not hasattr(socket, "closed_with")
    received = [message for _, message in socket.received]
    for event_id, (_, event) in enumerate(events[:-1]):
        acks = [one for one in received if one["type"] == "control_ack"]
        answers = answers_of(received, event_id)
        if {"type": "control_ack", "event_id": event_id} not in acks:
            assert answers == ["error"]  # too many waited
        elif event["kind"] in ANSWERS:
            assert len(answers) == 1 and answers[0] in (ANSWERS[event["kind"]], "error")
        else:
            assert answers == []
    check_indices(received)
    assert sessions[0].commands, "some were carried out"
