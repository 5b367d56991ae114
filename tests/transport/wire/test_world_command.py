"""Commands for the whole world, through the protocol and in their queue."""

import math

import pytest
from msgspec import msgpack

from transport.wire.errors import OutOfOrder
from transport.wire.messages import ControlAck
from transport.wire.world_command import (
    MAX_WAITING_COMMANDS,
    CommandQueue,
    ForkWorld,
    ResetWorld,
    RewindWorld,
    SaveWorld,
    WorldCommand,
)


def event(kind, payload=None, **fields):
    return msgpack.encode({"type": "event", "kind": kind, "payload": payload} | fields)


def take_all(protocol):
    commands = []
    while (command := protocol.commands.take(0.0)) is not None:
        protocol.commands.note_chunk()
        commands.append(command)
    return commands


@pytest.mark.parametrize(
    "kind, payload, expected",
    [
        ("save", None, SaveWorld()),
        ("save", {"anything": 1}, SaveWorld()),
        ("fork", None, ForkWorld()),
        ("rewind", {"chunk_index": 7}, RewindWorld(chunk_index=7)),
        ("rewind", {"chunk_index": 7.0, "seconds": None}, RewindWorld(chunk_index=7)),
        ("rewind", {"seconds": 2.5}, RewindWorld(seconds=2.5)),
        ("rewind", {"seconds": 3}, RewindWorld(seconds=3.0)),
        ("reset", None, ResetWorld()),
        ("reset", {}, ResetWorld()),
        ("reset", {"seed": -1, "prompt": "snow"}, ResetWorld(seed=-1, prompt="snow")),
    ],
)
def test_a_command_is_acknowledged_and_waits(start, kind, payload, expected):
    protocol = start(extensions=True)
    assert protocol.receive(event(kind, payload, event_id=4), 0.0) == [ControlAck(4)]
    (command,) = take_all(protocol)
    assert (command.event, command.event_id) == (expected, 4)


def test_a_rewind_on_literal_bytes(start):
    protocol = start(extensions=True)
    answer = protocol.receive(
        b"\x84\xa4type\xa5event\xa4kind\xa6rewind\xa8event_id\x05"
        b"\xa7payload\x81\xabchunk_index\x02",
        0.0,
    )
    assert answer == [ControlAck(5)]
    (command,) = take_all(protocol)
    assert command == WorldCommand(RewindWorld(chunk_index=2), 5, 1)


@pytest.mark.parametrize(
    "kind, payload, field",
    [
        ("rewind", None, "payload"),
        ("rewind", 5, "payload"),
        ("rewind", {}, "payload"),
        ("rewind", {"chunk_index": 1, "seconds": 1}, "payload"),
        ("rewind", {"chunk_index": -1}, "payload.chunk_index"),
        ("rewind", {"chunk_index": 2**63}, "payload.chunk_index"),
        ("rewind", {"seconds": 0}, "payload.seconds"),
        ("rewind", {"seconds": math.nan}, "payload.seconds"),
        ("rewind", {"seconds": 86_401}, "payload.seconds"),
        ("rewind", {"chunk": 1}, "payload.chunk"),
        ("reset", 5, "payload"),
        ("reset", {"seed": 2**63}, "payload.seed"),
        ("reset", {"prompt": ""}, "payload.prompt"),
        ("reset", {"prompt": "x" * 8001}, "payload.prompt"),
        ("reset", {"prompts": "x"}, "payload.prompts"),
    ],
)
def test_a_bad_payload_is_named_and_nothing_waits(start, kind, payload, field):
    protocol = start(extensions=True)
    error = protocol.receive(event(kind, payload, event_id=4), 0.0)
    assert (error.field, error.event_id) == (field, 4)
    assert error.code in ("invalid_field", "missing_field")
    assert field.rpartition(".")[2] in error.content
    assert not protocol.commands


@pytest.mark.parametrize("kind", ["save", "fork", "rewind", "reset"])
def test_a_plain_client_has_no_commands(start, kind):
    error = start().receive(event(kind, {"chunk_index": 1}, event_id=4), 0.0)
    assert (error.code, error.field, error.event_id) == ("out_of_order", "kind", 4)
    assert error.content == f"`{kind}` without `extensions` in init"
    fly = start().receive(event("fly"), 0.0)
    assert kind not in fly.content, "a plain client hears nothing of extensions"
    assert kind in start(extensions=True).receive(event("fly"), 0.0).content


@pytest.mark.parametrize("kind", ["save", "fork", "rewind", "reset"])
def test_a_command_is_no_part_of_a_composite(start, kind):
    protocol = start(extensions=True)
    payload = {"input_types": ["prompt", kind], "prompt": "rain", kind: {"chunk_index": 1}}
    error = protocol.receive(event("composite_input", payload), 0.0)
    assert (error.code, error.field) == ("unknown_kind", "payload.input_types[1]")
    assert not protocol.commands and protocol.take_controls().prompt is None


def test_one_command_too_many_is_refused_and_wakes_nobody(start):
    protocol = start(extensions=True)
    protocol.idle.start(0.0)
    for _ in range(MAX_WAITING_COMMANDS):
        assert protocol.receive(event("rewind", {"seconds": 1}), 0.0) == []
    script = event("camera_actions", [["w"]] * 9)
    protocol.receive(script, 0.0)
    error = protocol.receive(event("rewind", {"seconds": 1}, event_id=3), 0.0)
    assert (error.code, error.event_id) == ("queue_full", 3)
    for command in take_all(protocol):
        protocol.begin_course(command.course)
    assert protocol.take_controls().actions == ["w"] * 3, "the refused one ends no script"


def test_an_init_that_failed_takes_its_commands_along(start):
    protocol = start(extensions=True)
    protocol.receive(event("save"), 0.0)
    protocol.reject(OutOfOrder("no"), 0.0)
    assert not protocol.commands


@pytest.mark.parametrize("kind, wakes", [("save", False), ("fork", False), ("rewind", True)])
def test_a_save_is_no_sign_of_a_person(connect, kind, wakes):
    protocol = connect(idle_after_s=10)
    protocol.receive(msgpack.encode({"type": "init", "extensions": True}), 0.0)
    protocol.idle.start(0.0)
    protocol.idle.poll(11.0, busy=False)
    assert protocol.idle.paused == "idle"
    protocol.receive(event(kind, {"seconds": 1}), 12.0)
    protocol.idle.poll(12.0, busy=False)
    assert (protocol.idle.paused is None) is wakes


# ---- the queue


def command(event):
    return WorldCommand(event, None, 0)


def test_an_unchanged_world_is_saved_once_a_second():
    queue = CommandQueue()
    for one in (SaveWorld(), SaveWorld(), ForkWorld()):
        queue.add(command(one))
    assert queue.wait_s(5.0) == 0.0 and queue.take(5.0)
    assert queue.wait_s(5.25) == 0.75 and queue.take(5.25) is None
    assert queue.take(6.0).event == SaveWorld()
    queue.note_chunk()
    assert queue.take(6.0).event == ForkWorld()
    assert queue.wait_s(6.0) == math.inf and queue.take(6.0) is None


@pytest.mark.parametrize("change", [RewindWorld(seconds=1.0), ResetWorld()])
def test_a_rewind_or_reset_never_waits_and_the_world_after_it_is_another(change):
    queue = CommandQueue()
    for one in (SaveWorld(), change, SaveWorld()):
        queue.add(command(one))
    assert [queue.take(5.0).event for _ in range(3)] == [SaveWorld(), change, SaveWorld()]


# ---- what follows a command


def test_keys_stay_held_and_an_older_script_ends(start):
    protocol = start(extensions=True)
    held = {"mode": "state", "transitions": [{"actions": ["w"]}]}
    protocol.receive(event("camera_actions", held), 0.0)
    protocol.take_controls()
    protocol.receive(event("prompt", "rain", event_id=1), 0.0)
    protocol.receive(event("rewind", {"seconds": 1}), 0.0)
    (one,) = take_all(protocol)
    protocol.begin_course(one.course)
    controls = protocol.take_controls()
    assert (controls.actions, controls.prompt, controls.event_ids) == (["w"] * 3, None, [])
    assert controls.is_new_course and not protocol.take_controls().is_new_course


def test_events_behind_a_command_belong_to_what_follows(start):
    protocol = start(extensions=True)
    protocol.receive(event("camera_actions", [["s"]] * 9), 0.0)
    protocol.receive(event("reset"), 0.0)
    protocol.receive(event("camera_actions", [["w"]] * 2, event_id=8), 0.0)
    protocol.receive(event("prompt", "rain", event_id=9), 0.0)
    (one,) = take_all(protocol)
    protocol.begin_course(one.course)
    controls = protocol.take_controls()
    assert (controls.actions, controls.prompt) == (["w", "w", ""], "rain")
    assert controls.event_ids == [8, 9]


def test_a_command_that_was_refused_changes_no_controls(start):
    protocol = start(extensions=True)
    protocol.receive(event("camera_actions", [["s"]] * 9, event_id=1), 0.0)
    protocol.receive(event("prompt", "rain"), 0.0)
    protocol.receive(event("rewind", {"seconds": 1}), 0.0)
    take_all(protocol)
    controls = protocol.take_controls()
    assert (controls.actions, controls.prompt) == (["s"] * 3, "rain")
    assert protocol.take_controls().event_id == 1
    assert not controls.is_new_course


def test_a_new_course_wants_a_key_frame_and_its_chunk_at_once(start):
    protocol = start(extensions=True, realtime_cut_over=True)
    controls = protocol.take_controls()
    protocol.chunk_generated(10.0, controls, num_frames=9, took_s=0.1)
    assert protocol.wait_to_generate_s(10.0) > 0
    protocol.receive(event("rewind", {"seconds": 1}), 10.0)
    (one,) = take_all(protocol)
    protocol.begin_course(one.course)
    assert protocol.wait_to_generate_s(10.0) == 0.0
    assert protocol.time_to_underrun_s(10.0) == 0.0
    assert protocol.output.key_frame_wanted
    protocol.chunk_generated(20.0, protocol.take_controls(), num_frames=9, took_s=0.1)
    assert protocol.stall_s == 0.0, "the time of a rewind is no stall of the world"
