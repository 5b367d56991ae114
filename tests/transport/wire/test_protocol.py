import pytest
from msgspec import msgpack

from transport.wire.errors import Refused, TooLarge
from transport.wire.limits import ClientLimits
from transport.wire.messages import Ack, ControlAck, Encoding, Error
from transport.wire.protocol import ServerProtocol, SessionRequest, State
from transport.wire.world import Opening, WorldInfo

OPENING = Opening(name="hill", prompt="a grey hill", image=b"PNG")


def info(*, openings=(OPENING,), sizes=((112, 64),)):
    return WorldInfo(
        preset="test",
        sizes=sizes,
        size_multiple=16,
        max_pixels=832 * 480,
        fps=16,
        chunk_latent_frames=3,
        first_chunk_frames=9,
        chunk_frames=12,
        max_window=21,
        sink=6,
        max_steps=4,
        openings=openings,
    )


POCKET = info()


def conversation(*, info=POCKET, **limits):
    return ServerProtocol(info, limits=ClientLimits(**limits))


def init(**fields):
    return msgpack.encode({"type": "init"} | fields)


def event(kind, payload, **fields):
    return msgpack.encode({"type": "event", "kind": kind, "payload": payload} | fields)


def running(**fields):
    one = conversation()
    assert isinstance(one.receive(init(**fields)), SessionRequest)
    return one


def test_an_init_on_literal_bytes():
    plan = conversation().receive(b"\x82\xa4type\xa4init\xa4seed\x07")
    assert plan.world.seed == 7


def test_an_empty_init_takes_every_default():
    plan = conversation().receive(init())
    assert (plan.world.prompt, plan.first_frame, plan.world.seed) == ("a grey hill", None, 42)
    assert (plan.world.width, plan.world.height, plan.fps) == (112, 64, 16)
    assert (plan.world.num_steps, plan.world.window, plan.world.sink, plan.max_chunks) == (
        None,
        None,
        None,
        None,
    )
    assert plan.encoding == Encoding(format="raw", quality=90, preview_max_width=None)
    assert (plan.paced, plan.extensions, plan.script) == (True, False, [])


def test_a_full_init():
    plan = conversation().receive(
        init(
            prompt="snow",
            first_frame=b"JPEG",
            size="832x480",
            seed=0,
            fps=24,
            max_chunks=5,
            num_inference_steps=2,
            realtime_output_format="jpeg",
            output_compression=70,
            realtime_preview_max_width=64,
            realtime_output_pacing=False,
            realtime_causal_sink_size=6,
            realtime_causal_kv_cache_num_frames=9,
            condition_inputs={"camera_actions": [["l", "w"], []]},
            extensions=True,
        )
    )
    assert (plan.world.prompt, plan.first_frame, plan.world.seed, plan.fps) == (
        "snow",
        b"JPEG",
        0,
        24,
    )
    assert (plan.world.width, plan.world.height) == (112, 64)
    assert (plan.world.num_steps, plan.world.window, plan.world.sink, plan.max_chunks) == (
        2,
        9,
        6,
        5,
    )
    assert plan.encoding == Encoding(format="jpeg", quality=70, preview_max_width=64)
    assert (plan.paced, plan.extensions, plan.script) == (False, True, ["wl", ""])


def test_an_empty_prompt_and_zeros_mean_the_default():
    plan = conversation().receive(
        init(prompt="", output_compression=0, realtime_preview_max_width=0)
    )
    assert (plan.world.prompt, plan.encoding) == ("a grey hill", Encoding())


def test_a_first_frame_may_be_text():
    assert conversation().receive(init(first_frame="aGk=")).first_frame == "aGk="


def test_a_size_that_is_not_served_becomes_the_nearest():
    plan = conversation(info=info(sizes=())).receive(init(size="830x475"))
    assert (plan.world.width, plan.world.height) == (832, 480)


@pytest.mark.parametrize(
    "window, sink, served",
    [
        (None, None, (None, None)),
        (21, 6, (21, 6)),
        (99, 9, (21, 9)),
        (99, 99, (21, 18)),
        (9, 7, (9, 6)),
        (3, 1, (3, 0)),
        (None, 19, (None, 18)),
        (21, None, (21, 6)),
        (7, None, (7, 4)),  # the default sink does not fit
        (9, 0, (9, 0)),
    ],
)
def test_a_window_and_its_sink_are_wishes_too(window, sink, served):
    fields = {"realtime_causal_kv_cache_num_frames": window, "realtime_causal_sink_size": sink}
    plan = conversation().receive(init(**fields))
    assert (plan.world.window, plan.world.sink) == served


def test_only_a_client_that_acknowledges_may_run_unpaced():
    assert conversation().receive(init(realtime_output_pacing=False)).paced
    assert conversation().receive(init(extensions=True)).paced
    assert not conversation().receive(init(realtime_output_pacing=False, extensions=True)).paced


@pytest.mark.parametrize(
    "fields, field, reason",
    [
        ({"size": "abc"}, "size", "'abc', expected 'WIDTHxHEIGHT', each 1 to 8192"),
        ({"size": "0x64"}, "size", "'0x64'"),
        ({"size": "112x-64"}, "size", "'112x-64'"),
        ({"size": "9000x64"}, "size", "'9000x64'"),
        ({"size": "99999999999x1"}, "size", "'99999999999x1'"),
        ({"size": " 112x64"}, "size", "' 112x64'"),
        ({"size": "112x64\n"}, "size", "expected"),
        ({"size": "１12x64"}, "size", "expected"),
        ({"size": "x" * 60_000}, "size", "…"),
        ({"realtime_output_format": "gif"}, "realtime_output_format", "'gif' is unknown"),
        ({"realtime_output_format": "gif"}, "realtime_output_format", "'webp', 'h264'"),
        ({"realtime_output_format": "delta-zstd"}, "realtime_output_format", "needs `extensions`"),
        ({"num_inference_steps": 5}, "num_inference_steps", "5, expected 1 to 4"),
        (
            {"realtime_causal_kv_cache_num_frames": 2},
            "realtime_causal_kv_cache_num_frames",
            "2, expected at least 3",
        ),
        ({"first_frame": 5}, "first_frame", "expected `str`, got `int`"),
        ({"first_frame": [b"x"]}, "first_frame", "got `array`"),
        (
            {"condition_inputs": {"camera_actions": [["w"], ["q"]]}},
            "condition_inputs.camera_actions[1][0]",
            "'q' is no key",
        ),
        (
            {"condition_inputs": {"camera_actions": {"mode": "state"}}},
            "condition_inputs.camera_actions.transitions",
            "missing",
        ),
        ({"seed": -1}, "seed", ">= 0"),
    ],
)
def test_an_invalid_init_is_answered_and_another_may_follow(fields, field, reason):
    one = conversation()
    error = one.receive(init(**fields))
    assert isinstance(error, Error)
    assert error.field == field
    assert reason in error.content
    assert len(error.content) < 300
    assert isinstance(one.receive(init()), SessionRequest)


def test_a_world_without_pictures_needs_a_first_frame_and_a_prompt():
    bare = info(openings=())
    error = conversation(info=bare).receive(init(first_frame=b"x"))
    assert (error.code, error.field) == ("missing_field", "prompt")
    error = conversation(info=bare).receive(init(prompt="x"))
    assert (error.code, error.field) == ("missing_field", "first_frame")
    assert isinstance(
        conversation(info=bare).receive(init(prompt="x", first_frame=b"x")), SessionRequest
    )


def test_a_script_in_init_may_not_be_larger_than_one_in_an_event():
    script = [[] for _ in range(70_000)]
    error = conversation().receive(init(condition_inputs={"camera_actions": script}))
    assert (error.code, error.field) == ("too_large", "condition_inputs.camera_actions")


def test_the_script_of_init_is_played_from_the_first_chunk():
    one = running(condition_inputs={"camera_actions": [["w"], ["l"]]})
    assert one.controls.take_chunk(3).actions == ["w", "l", ""]


def test_a_thousand_repeats_of_a_payload_are_not_parsed():
    one = running()
    history = {"mode": "state", "transitions": [{"actions": ["w"]}] * 500}
    payload = {"input_types": ["camera_actions"] * 1000, "camera_actions": history}
    error = one.receive(event("composite_input", payload))
    assert error.content == "`payload.input_types[1]`: 'camera_actions' is listed twice"
    assert one.controls.take_chunk(3).actions == ["", "", ""]


def test_a_rejected_plan_leaves_no_trace():
    one = running(condition_inputs={"camera_actions": [["w"]]})
    error = one.reject(Refused("no such seed", field="seed"))
    assert (error.code, error.field) == ("refused", "seed")
    assert one.state is State.IDLE
    assert isinstance(one.receive(init()), SessionRequest)
    assert one.controls.take_chunk(3).actions == ["", "", ""]


@pytest.mark.parametrize(
    "data", [event("prompt", "rain"), msgpack.encode({"type": "ack", "chunk_index": 0})]
)
def test_what_comes_before_init_is_answered(data):
    error = conversation().receive(data)
    assert error.code == "out_of_order"
    assert "before init" in error.content


def test_a_second_init_is_answered_and_the_session_goes_on():
    one = running()
    assert one.receive(init(prompt="x" * 100)).code == "out_of_order"
    assert one.receive(init(first_frame=bytes(100_000))).code == "out_of_order"
    assert one.receive(event("prompt", "rain")) is None


def test_events_reach_the_controls():
    one = running()
    one.receive(event("camera_actions", [["w"], ["l"]], event_id=1))
    one.receive(event("prompt", "rain", event_id=2))
    taken = one.controls.take_chunk(3)
    assert (taken.actions, taken.prompt, taken.event_ids) == (["w", "l", ""], "rain", [1, 2])


def test_held_keys_on_literal_bytes():
    one = running()
    one.receive(
        b"\x84\xa4type\xa5event\xa4kind\xaecamera_actions\xa8event_id\x05\xa7payload"
        b"\x82\xa4mode\xa5state\xabtransitions\x91"
        b"\x82\xa7actions\x92\xa1l\xa1w\xacclient_ts_ms\xcd\x01\x00"
    )
    assert one.controls.take_chunk(3).actions == ["wl", "wl", "wl"]


def test_a_composite_applies_everything_that_it_lists():
    one = running()
    payload = {
        "input_types": ["camera_actions", "prompt"],
        "camera_actions": {"mode": "state", "transitions": [{"actions": ["w"]}]},
        "prompt": "rain",
        "not_listed": 5,
    }
    assert one.receive(event("composite_input", payload, event_id=3)) is None
    taken = one.controls.take_chunk(3)
    assert (taken.actions, taken.prompt, taken.event_ids) == (["w"] * 3, "rain", [3])


@pytest.mark.parametrize(
    "payload, code, field",
    [
        ({"input_types": ["prompt", "fly"]}, "unknown_kind", "payload.input_types[1]"),
        ({"input_types": ["prompt", "composite_input"]}, "unknown_kind", "payload.input_types[1]"),
        ({"input_types": ["prompt", "camera_actions"]}, "missing_field", "payload.camera_actions"),
        (
            {"input_types": ["prompt", "camera_actions"], "camera_actions": [["q"]]},
            "invalid_field",
            "payload.camera_actions[0][0]",
        ),
        # before anything is parsed, so that the bad part is not what is told
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
def test_a_composite_with_one_bad_part_applies_nothing(payload, code, field):
    one = running()
    error = one.receive(event("composite_input", {"prompt": "rain"} | payload))
    assert (error.code, error.field) == (code, field)
    assert one.controls.take_chunk(3).prompt is None


@pytest.mark.parametrize(
    "kind, payload, code, field",
    [
        ("fly", None, "unknown_kind", "kind"),
        ("prompt", "", "invalid_field", "payload"),
        ("prompt", "x" * 2001, "invalid_field", "payload"),
        ("prompt", 5, "invalid_field", "payload"),
        ("prompt", None, "missing_field", "payload"),
        ("camera_actions", [["q"]], "invalid_field", "payload[0][0]"),
        ("camera_actions", [["w"]] * 513, "queue_full", "payload"),
        (
            "camera_actions",
            {"mode": "state", "transitions": [{"actions": []}] * 6400},
            "queue_full",
            "payload.transitions",
        ),
        ("composite_input", [], "invalid_field", "payload"),
    ],
)
def test_an_invalid_event_is_answered_and_changes_nothing(kind, payload, code, field):
    one = running()
    error = one.receive(event(kind, payload, event_id=1))
    assert (error.code, error.field) == (code, field)
    taken = one.controls.take_chunk(3)
    assert (taken.actions, taken.event_ids, taken.prompt) == (["", "", ""], [], None)
    assert one.state is State.RUNNING


def test_an_unknown_kind_is_told_the_known_ones():
    error = running().receive(event("fly", None))
    assert "'fly', expected one of camera_actions, prompt, output," in error.content


@pytest.mark.parametrize("data, code", [("hello", "text_frame"), (b"\xc1", "malformed")])
def test_what_is_no_message_is_answered(data, code):
    assert conversation().receive(data).code == code
    assert running().receive(data).code == code


def test_events_with_an_id_are_acknowledged_to_those_who_asked():
    asked = running(extensions=True)
    assert asked.receive(event("prompt", "rain", event_id=7)) == ControlAck(7)
    assert asked.receive(event("prompt", "rain")) is None
    assert running().receive(event("prompt", "rain", event_id=7)) is None


def test_acks_reach_the_pacer():
    one = running(extensions=True, realtime_output_pacing=False)
    for _ in range(2):
        one.pacer.generated(0.0, num_frames=12, took=0.1)
    assert one.pacer.wait_s(0.0) > 0
    assert one.receive(b"\x82\xa4type\xa3ack\xabchunk_index\x01") == Ack(1)
    assert one.pacer.wait_s(0.0) == 0


def test_acks_are_an_extension():
    error = running().receive(msgpack.encode({"type": "ack", "chunk_index": 0}))
    assert (error.code, error.content) == ("out_of_order", "an ack without `extensions` in init")


def test_an_event_over_its_limit_ends_the_conversation():
    one = running()
    with pytest.raises(TooLarge, match="expected at most 65536"):
        one.receive(event("prompt", "x" * 65_536))


def test_an_init_over_its_limit_ends_the_conversation():
    with pytest.raises(TooLarge, match="expected at most 4096"):
        conversation(max_init_bytes=4096).receive(init(first_frame=bytes(4096)))


def test_a_client_that_never_gets_it_right_is_refused():
    one = conversation(max_errors=100)
    for _ in range(100):
        assert isinstance(one.receive(b"\xc1"), Error)
    with pytest.raises(Refused, match="more than 100 messages") as caught:
        one.receive(b"\xc1")
    assert (caught.value.code, caught.value.close_code) == ("too_many_errors", 1008)


def ask(one, **fields):
    return one.receive(event("output", fields, event_id=5))


def test_an_output_event_changes_what_it_names_and_no_more():
    one = running(extensions=True, realtime_output_format="jpeg", output_compression=70)
    assert ask(one, realtime_output_format="h264") == ControlAck(5)
    assert one.output.encoding == Encoding(format="h264", quality=70)
    ask(one, output_compression=40, realtime_preview_max_width=320)
    assert one.output.encoding == Encoding(format="h264", quality=40, preview_max_width=320)
    ask(one, output_compression=0, realtime_preview_max_width=0)
    assert one.output.encoding == Encoding(format="h264", quality=90)
    ask(one, realtime_output_format="jpeg", realtime_chroma_subsampling="444")
    assert one.output.encoding == Encoding(format="jpeg", quality=90, chroma="444")


@pytest.mark.parametrize(
    "fields, field",
    [
        ({"realtime_output_format": "gif"}, "payload.realtime_output_format"),
        ({"output_compression": 101}, "payload.output_compression"),
        ({"realtime_preview_max_width": -1}, "payload.realtime_preview_max_width"),
        ({"realtime_chroma_subsampling": "422"}, "payload.realtime_chroma_subsampling"),
    ],
)
def test_an_output_event_that_cannot_be_followed_changes_nothing(fields, field):
    one = running(extensions=True)
    answer = ask(one, **fields)
    assert (answer.code, answer.field) == ("invalid_field", field)
    assert one.output.encoding == Encoding()


def test_the_lossless_codec_is_for_clients_with_extensions():
    plain, extended = running(), running(extensions=True)
    answer = ask(plain, realtime_output_format="delta-zstd")
    assert answer.field == "payload.realtime_output_format"
    assert "needs `extensions`" in answer.content
    assert ask(extended, realtime_output_format="delta-zstd") == ControlAck(5)


@pytest.mark.parametrize("payload", [{}, {"payload": None}, {"payload": {"any": 1}}])
def test_a_key_frame_may_be_asked_for(payload):
    one = running(extensions=True)
    message = {"type": "event", "kind": "key_frame", "event_id": 6} | payload
    assert one.receive(msgpack.encode(message)) == ControlAck(6)
    assert one.output.key_frame_wanted


def test_output_and_keys_may_change_together():
    one = running(extensions=True)
    payload = {
        "input_types": ["camera_actions", "output"],
        "camera_actions": [["w"]],
        "output": {"realtime_output_format": "webp"},
    }
    assert one.receive(event("composite_input", payload, event_id=1)) == ControlAck(1)
    assert one.output.encoding.format == "webp"
    assert one.controls.take_chunk(1).actions == ["w"]


def test_the_latest_and_cuts_are_for_clients_with_extensions():
    wish = {
        "realtime_delivery": "latest",
        "realtime_cut_over": True,
        "realtime_output_pacing": False,
    }
    plain = conversation().receive(init(**wish))
    extended = conversation().receive(init(extensions=True, **wish))
    assert (plain.latest, plain.flushes_older, plain.paced) == (False, False, True)
    assert (extended.latest, extended.flushes_older) == (True, True)
    assert extended.paced, "frames that nobody will see are not made ahead of time"
