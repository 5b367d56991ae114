"""Events, alone and through the protocol."""

import pytest
from msgspec import Raw, msgpack

from transport.wire.errors import BadMessage
from transport.wire.event import HoldKeys, PlayScript, read_camera_actions
from transport.wire.messages import ControlAck
from transport.wire.protocol import State


def event(kind, payload, **fields):
    return msgpack.encode({"type": "event", "kind": kind, "payload": payload} | fields)


def parse(payload, warnings=None):
    raw = Raw(msgpack.encode(payload))
    return read_camera_actions(raw, field="payload", warnings=[] if warnings is None else warnings)


def test_a_thousand_repeats_of_a_payload_are_not_parsed(start):
    protocol = start()
    history = {"mode": "state", "transitions": [{"actions": ["w"]}] * 500}
    payload = {"input_types": ["camera_actions"] * 1000, "camera_actions": history}
    error = protocol.receive(event("composite_input", payload), 0.0)
    assert error.content == "`payload.input_types[1]`: 'camera_actions' is listed twice"
    assert protocol.controls.take_chunk(3).actions == ["", "", ""]


def test_held_keys_on_literal_bytes(start):
    protocol = start()
    protocol.receive(
        b"\x84\xa4type\xa5event\xa4kind\xaecamera_actions\xa8event_id\x05\xa7payload"
        b"\x82\xa4mode\xa5state\xabtransitions\x91"
        b"\x82\xa7actions\x92\xa1l\xa1w\xacclient_ts_ms\xcd\x01\x00",
        0.0,
    )
    assert protocol.controls.take_chunk(3).actions == ["wl", "wl", "wl"]


def test_a_composite_applies_all_kinds_that_it_lists(start):
    protocol = start()
    payload = {
        "input_types": ["camera_actions", "prompt"],
        "camera_actions": {"mode": "state", "transitions": [{"actions": ["w"]}]},
        "prompt": "rain",
        "not_listed": 5,
    }
    assert protocol.receive(event("composite_input", payload, event_id=3), 0.0) == []
    (warning,) = start(extensions=True).receive(event("composite_input", payload), 0.0)
    assert warning.content.startswith("`payload`: 'not_listed' is left out")
    taken = protocol.controls.take_chunk(3)
    assert (taken.actions, taken.prompt, taken.event_ids) == (["w"] * 3, "rain", [3])


@pytest.mark.parametrize(
    "payload, code, field",
    [
        ({"input_types": ["prompt", "fly"]}, "unknown_kind", "payload.input_types[1]"),
        ({"input_types": ["prompt", "composite_input"]}, "unknown_kind", "payload.input_types[1]"),
        ({"input_types": ["prompt", "camera_actions"]}, "missing_field", "payload.camera_actions"),
        (
            {"input_types": ["prompt", "camera_actions"], "camera_actions": [[5]]},
            "invalid_field",
            "payload.camera_actions[0][0]",
        ),
        # refused before any part is parsed, so the error does not name the bad part
        (
            {
                "input_types": ["camera_actions", "prompt", "camera_actions"],
                "camera_actions": [["q"]],
            },
            "invalid_field",
            "payload.input_types[2]",
        ),
        ({"input_types": []}, "invalid_field", "payload.input_types"),
        ({"input_types": "prompt"}, "invalid_field", "payload.input_types"),
        ({}, "missing_field", "payload.input_types"),
    ],
)
def test_a_composite_with_one_bad_part_applies_nothing(start, payload, code, field):
    protocol = start()
    error = protocol.receive(event("composite_input", {"prompt": "rain"} | payload), 0.0)
    assert (error.code, error.field) == (code, field)
    assert protocol.controls.take_chunk(3).prompt is None


@pytest.mark.parametrize(
    "kind, payload, code, field",
    [
        ("fly", None, "unknown_kind", "kind"),
        ("prompt", "", "invalid_field", "payload"),
        ("prompt", "x" * 8001, "invalid_field", "payload"),
        ("prompt", 5, "invalid_field", "payload"),
        ("prompt", None, "missing_field", "payload"),
        ("camera_actions", [[5]], "invalid_field", "payload[0][0]"),
        ("composite_input", [], "invalid_field", "payload"),
    ],
)
def test_an_invalid_event_is_answered_and_changes_nothing(start, kind, payload, code, field):
    protocol = start()
    error = protocol.receive(event(kind, payload, event_id=1), 0.0)
    assert (error.code, error.field) == (code, field)
    taken = protocol.controls.take_chunk(3)
    assert (taken.actions, taken.event_ids, taken.prompt) == (["", "", ""], [], None)
    assert protocol.state is State.RUNNING


@pytest.mark.parametrize("prompt", ["x" * 8000, "🌲" * 8000])
def test_a_long_prompt_is_taken(start, prompt):
    composite = {"input_types": ["prompt"], "prompt": prompt}
    for kind, payload in (("prompt", prompt), ("composite_input", composite)):
        protocol = start()
        assert protocol.receive(event(kind, payload), 0.0) == []
        assert protocol.controls.take_chunk(3).prompt == prompt


def test_an_unknown_kind_is_answered_with_the_known_ones(start):
    error = start().receive(event("fly", None), 0.0)
    assert "'fly', expected one of camera_actions, prompt, output," in error.content


def test_a_script_is_read_as_actions_in_the_canonical_order():
    assert parse([["l", "w"], [], ["w", "w"]]) == PlayScript(["wl", "", "w"])


def test_held_keys_are_canonical_after_each_transition():
    transitions = [{"actions": ["l", "w"]}, {"actions": []}, {"actions": ["s", "s"]}]
    assert parse({"mode": "state", "transitions": transitions}) == HoldKeys(["wl", "", "s"])


def test_held_keys_are_read_as_states():
    payload = {"mode": "state", "transitions": [{"actions": ["w"], "client_ts_ms": 12}]}
    assert parse(payload) == HoldKeys(["w"])


@pytest.mark.parametrize(
    "payload, field, reason",
    [
        ([["w"], ["w"], ["w"], [None]], "payload[3][0]", "expected `str`, got `None`"),
        ([["w"], "w"], "payload[1]", "expected `array`, got `str`"),
        ([["w", 5]], "payload[0][1]", "expected `str`, got `int`"),
        ("w", "payload", "expected `array`, got `str`"),
        (None, "payload", "missing required field `payload`"),
        ({"mode": "state"}, "payload.transitions", "missing required field"),
        ({"mode": "fly", "transitions": [{"actions": []}]}, "payload.mode", "expected 'state'"),
        (
            {"mode": "state", "transitions": [{"actions": []}, {"actions": ["w", 5]}]},
            "payload.transitions[1].actions[1]",
            "expected `str`, got `int`",
        ),
        (
            {"mode": "state", "transitions": [{"actions": ["w"], "client_ts_ms": "now"}]},
            "payload.transitions[0].client_ts_ms",
            "got `str`",
        ),
    ],
)
def test_a_wrong_payload_is_named_by_its_path(payload, field, reason):
    with pytest.raises(BadMessage) as caught:
        parse(payload)
    assert caught.value.field == field
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    "keys, action, unknown",
    [
        (["W"], "w", ""),
        (["L", "w", "W"], "wl", ""),
        (["q"], "", "q"),
        (["w", "Shift", "Q", "", "shift"], "w", "shift', 'q', '"),
        (["wa"], "", "wa"),
        ([""], "", ""),
        (["w", " w"], "w", " w"),
    ],
)
@pytest.mark.parametrize("mode", ["script", "state"])
def test_case_is_folded_and_unknown_keys_are_left_out(keys, action, unknown, mode):
    warnings = []
    if mode == "script":
        assert parse([["a"], keys], warnings) == PlayScript(["a", action])
    else:
        transitions = [{"actions": ["a"]}, {"actions": keys}]
        held = parse({"mode": "state", "transitions": transitions}, warnings)
        assert held == HoldKeys(["a", action])
    expected = [("unknown_keys", "payload")] if set(keys) - set("WLwa") else []
    assert [(one.code, one.field) for one in warnings] == expected
    for warning in warnings:
        assert f"'{unknown}' left out, expected keys of 'wasdijkl'" in warning.content


def test_unknown_keys_are_not_quoted_at_length():
    warnings = []
    parse([[f"key {position}" for position in range(5000)]], warnings)
    assert len(warnings) == 1
    assert len(warnings[0].content) < 200


def test_unknown_keys_are_a_warning_after_the_ack_of_a_client_with_extensions(start):
    extended, plain = start(extensions=True), start()
    ack, warning = extended.receive(event("camera_actions", [["w", "q"]], event_id=7), 0.0)
    assert (ack, warning.code, warning.field) == (ControlAck(7), "unknown_keys", "payload")
    (warning,) = extended.receive(event("camera_actions", [["w", "q"]]), 0.0)  # no id, no ack
    assert warning.code == "unknown_keys"
    composite = {"input_types": ["camera_actions"], "camera_actions": [["w", "q"]]}
    (warning,) = extended.receive(event("composite_input", composite), 0.0)
    assert warning.field == "payload.camera_actions"
    assert plain.receive(event("camera_actions", [["w", "q"]], event_id=7), 0.0) == []
    assert plain.controls.take_chunk(1).actions == ["w"]


def test_a_history_without_transitions_ends_a_script_and_no_more(start):
    protocol = start(extensions=True)
    empty = {"mode": "state", "transitions": []}
    protocol.receive(event("camera_actions", [["w"]] * 9), 0.0)
    protocol.controls.take_chunk(3)
    assert protocol.receive(event("camera_actions", empty, event_id=1), 0.0) == [ControlAck(1)]
    taken = protocol.controls.take_chunk(3)
    assert (taken.actions, taken.has_new_keys) == ([""] * 3, True)
    held = {"mode": "state", "transitions": [{"actions": ["l"]}]}
    protocol.receive(event("camera_actions", held), 0.0)
    protocol.controls.take_chunk(3)
    protocol.receive(event("camera_actions", empty), 0.0)
    taken = protocol.controls.take_chunk(3)
    assert (taken.actions, taken.has_new_keys) == (["l"] * 3, False)


@pytest.mark.parametrize("num", [512, 513, 6000])
def test_a_long_script_keeps_the_newest(num):
    warnings = []
    script = [["s"]] * (num - 512) + [["w"]] * 511 + [["l"]]
    assert parse(script, warnings) == PlayScript(["w"] * 511 + ["l"])
    assert [one.code for one in warnings] == (["script_truncated"] if num > 512 else [])
    for warning in warnings:
        assert f"first {num - 512} latent frames" in warning.content


def test_a_long_history_loses_no_tap(start):
    protocol = start()
    keys = ["i", *("w" if position % 2 else "" for position in range(3000)), "l"]
    held = {"mode": "state", "transitions": [{"actions": list(key)} for key in keys]}
    assert protocol.receive(event("camera_actions", held), 0.0) == []
    assert protocol.controls.take_chunk(3).actions == ["wi", "w", "l"]


@pytest.mark.parametrize("visibility, hidden", [("hidden", True), ("visible", False)])
def test_a_page_tells_whether_it_is_seen(start, visibility, hidden):
    protocol = start(extensions=True)
    protocol.idle.start(0.0)
    assert protocol.receive(event("visibility", visibility, event_id=4), 1.0) == [ControlAck(4)]
    assert (protocol.idle.poll(1.0, busy=False) != []) is hidden


def test_visibility_is_an_extension(start):
    error = start().receive(event("visibility", "hidden"), 0.0)
    assert error.content == "`visibility` without `extensions` in init"
    assert (error.code, error.field) == ("out_of_order", "kind")


@pytest.mark.parametrize("payload", ["Hidden", "", 1, None, ["hidden"]])
def test_another_visibility_is_refused(start, payload):
    error = start(extensions=True).receive(event("visibility", payload), 0.0)
    assert error.field == "payload"


@pytest.mark.parametrize(
    "kind, payload, wakes",
    [
        ("camera_actions", {"mode": "state", "transitions": [{"actions": ["w"]}]}, True),
        ("camera_actions", {"mode": "state", "transitions": [{"actions": []}]}, False),
        ("camera_actions", [["w"]], True),
        ("prompt", "rain", True),
        ("key_frame", None, False),
        ("output", {"output_compression": 50}, False),
    ],
)
def test_keys_and_prompts_wake_a_hidden_session(start, kind, payload, wakes):
    protocol = start(extensions=True)
    protocol.idle.start(0.0)
    protocol.receive(event("visibility", "hidden"), 1.0)
    protocol.idle.poll(1.0, busy=False)
    protocol.receive(event(kind, payload), 2.0)
    assert (protocol.idle.poll(2.0, busy=protocol.controls.is_busy) != []) is wakes
