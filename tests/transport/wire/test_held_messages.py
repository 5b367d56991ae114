"""Messages behind a second init, which wait until the first has failed or has its session."""

import pytest
from msgspec import msgpack

from transport.wire.errors import Refused
from transport.wire.messages import ControlAck


def init(**fields):
    return msgpack.encode({"type": "init"} | fields)


def event(kind, payload, **fields):
    return msgpack.encode({"type": "event", "kind": kind, "payload": payload} | fields)


def test_a_second_init_waits_until_the_first_has_failed(start):
    protocol = start(prompt="bad")
    protocol.receive(event("prompt", "of the first"), 0.0)
    sent = [
        init(size="no"),
        init(prompt="good"),
        event("camera_actions", [["w"]]),
        init(prompt="late"),
    ]
    assert [protocol.receive(data, 0.0) for data in sent] == [[]] * 4
    failed, answered, request, *rest = protocol.reject(Refused("no"), 0.0)
    assert (failed.code, answered.field) == ("refused", "size")
    assert (request.world.prompt, rest) == ("good", [[], []])
    taken = protocol.controls.take_chunk(3)
    assert (taken.actions, taken.prompt) == (["w", "", ""], None)
    assert protocol.receive(event("prompt", "rain", event_id=1), 0.0) == []  # behind `late`
    protocol.send_session("s1")
    (second, prompt) = protocol.release(0.0)
    assert (second.code, prompt) == ("out_of_order", [])
    assert protocol.controls.take_chunk(3).prompt == "rain"


def test_a_second_init_is_answered_once_the_first_has_its_session(start):
    protocol = start(extensions=True)
    assert protocol.receive(init(), 0.0) == []
    assert protocol.receive(event("prompt", "rain", event_id=7), 0.0) == []
    assert protocol.receive("text", 0.0) == []
    protocol.send_session("s1")
    error, receipt, text = protocol.release(0.0)
    assert (error.code, receipt, text.code) == ("out_of_order", [ControlAck(7)], "text_frame")
    assert protocol.receive(event("prompt", "rain", event_id=8), 0.0) == [ControlAck(8)]


@pytest.mark.parametrize(
    "data, num_held", [(init(), 512), (init(first_frame=bytes(1000)), 8), ("x" * 1000, 9)]
)
def test_messages_behind_a_second_init_are_bounded(connect, data, num_held):
    protocol = connect(max_init_bytes=9200 if num_held < 512 else 1 << 20)
    protocol.receive(init(), 0.0)
    answers = [protocol.receive(init(), 0.0)] if isinstance(data, str) else []
    while not answers or answers[-1] == []:
        answers.append(protocol.receive(data, 0.0))
    assert answers[-1].code == "queue_full"
    assert answers.count([]) - isinstance(data, str) == num_held
