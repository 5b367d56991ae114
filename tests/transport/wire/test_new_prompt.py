"""Prompts that must be encoded before they take effect, on literal bytes.

The class is in `transport/wire/protocol.py`.
"""

from msgspec import msgpack
from msgspec.structs import replace

from transport.wire.errors import Refused, WorldLost
from transport.wire.messages import ControlAck


def init(**fields):
    return msgpack.encode({"type": "init"} | fields)


def event(kind, payload, **fields):
    return msgpack.encode({"type": "event", "kind": kind, "payload": payload} | fields)


def start_encoding_world(connect, info):
    """A protocol whose world encodes prompts beside its chunks."""
    protocol = connect(info=replace(info(), encodes_prompts=True))
    protocol.receive(init(extensions=True), 0.0)
    return protocol


def test_a_prompt_that_must_be_encoded_reaches_the_controls_afterwards(connect, info):
    protocol = start_encoding_world(connect, info)
    assert not protocol.has_new_prompt
    assert protocol.receive(event("prompt", "rain", event_id=4), 0.0) == [ControlAck(4)]
    assert protocol.has_new_prompt
    assert protocol.take_controls().event_ids == []
    new = protocol.take_new_prompt()
    assert (new.prompt, new.event_id, protocol.take_new_prompt()) == ("rain", 4, None)
    assert protocol.take_controls().prompt is None
    protocol.apply_prompt(new)
    controls = protocol.take_controls()
    assert (controls.prompt, controls.event_ids, controls.event_id) == ("rain", [4], 4)


def test_a_prompt_whose_init_failed_is_never_encoded(connect, info):
    protocol = start_encoding_world(connect, info)
    protocol.receive(event("prompt", "rain", event_id=4), 0.0)
    protocol.reject(Refused("no"), 0.0)
    assert not protocol.has_new_prompt


def test_the_refusal_of_a_prompt_names_its_event(connect, info):
    protocol = start_encoding_world(connect, info)
    protocol.receive(event("prompt", "rain", event_id=4), 0.0)
    new = protocol.take_new_prompt()
    (message,) = protocol.send_prompt_refusal(new, WorldLost("the text encoder died"))
    assert msgpack.decode(message) == {
        "type": "error",
        "content": "the prompt stays as it was: the text encoder died",
        "code": "refused",
        "field": "prompt",
        "event_id": 4,
    }


def test_a_prompt_that_is_encoded_during_a_rewind_belongs_to_the_old_course(connect, info):
    protocol = start_encoding_world(connect, info)
    protocol.receive(event("prompt", "rain"), 0.0)
    encoding = protocol.take_new_prompt()
    protocol.receive(event("prompt", "fog"), 0.0)
    protocol.receive(event("rewind", {"seconds": 1}), 0.0)
    command = protocol.commands.take(0.0)
    protocol.begin_course(command.course)
    assert not protocol.has_new_prompt, "the fog was asked for before"
    protocol.apply_prompt(encoding)
    assert protocol.take_controls().prompt is None


def test_a_prompt_behind_a_rewind_survives_it(connect, info):
    protocol = start_encoding_world(connect, info)
    protocol.receive(event("rewind", {"seconds": 1}), 0.0)
    protocol.receive(event("prompt", "rain", event_id=4), 0.0)
    command, encoding = protocol.commands.take(0.0), protocol.take_new_prompt()
    protocol.begin_course(command.course)
    protocol.apply_prompt(encoding)
    controls = protocol.take_controls()
    assert (controls.prompt, controls.event_ids) == ("rain", [4])
