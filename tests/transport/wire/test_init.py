"""Inits as literal bytes, through the protocol."""

import pytest
from msgspec import msgpack

from transport.wire.init import SessionRequest
from transport.wire.messages import Encoding, Error


def init(**fields):
    return msgpack.encode({"type": "init"} | fields)


def test_an_init_on_literal_bytes(connect):
    request = connect().receive(b"\x82\xa4type\xa4init\xa4seed\x07", 0.0)
    assert request.world.seed == 7


def test_an_empty_init_takes_every_default(connect):
    request = connect().receive(init(), 0.0)
    assert (request.world.prompt, request.first_frame) == ("a grey hill", None)
    assert request.world.seed == 42
    assert (request.world.width, request.world.height, request.fps) == (112, 64, 16)
    assert (request.world.num_steps, request.max_chunks) == (None, None)
    assert (request.world.window, request.world.sink) == (None, None)
    assert request.encoding == Encoding(format="raw", quality=None, preview_max_width=None)
    assert (request.paced, request.extensions, request.script) == (True, False, [])


def test_a_full_init(connect):
    request = connect().receive(
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
        ),
        0.0,
    )
    assert (request.world.prompt, request.first_frame) == ("snow", b"JPEG")
    assert (request.world.seed, request.fps) == (0, 24)
    assert (request.world.width, request.world.height) == (112, 64)
    assert (request.world.num_steps, request.max_chunks) == (2, 5)
    assert (request.world.window, request.world.sink) == (9, 6)
    assert request.encoding == Encoding(format="jpeg", quality=70, preview_max_width=64)
    assert (request.paced, request.extensions, request.script) == (False, True, ["wl", ""])


def test_an_empty_prompt_and_zeros_mean_the_default(connect):
    request = connect().receive(
        init(prompt="", output_compression=0, realtime_preview_max_width=0), 0.0
    )
    assert (request.world.prompt, request.encoding) == ("a grey hill", Encoding())


def test_a_long_prompt_is_taken(connect):
    assert connect().receive(init(prompt="🌲" * 8000), 0.0).world.prompt == "🌲" * 8000


def test_a_first_frame_may_be_text(connect):
    assert connect().receive(init(first_frame="aGk="), 0.0).first_frame == "aGk="


def test_a_size_that_is_not_served_becomes_the_nearest(connect, info):
    request = connect(info=info(sizes=())).receive(init(size="830x475"), 0.0)
    assert (request.world.width, request.world.height) == (832, 480)


@pytest.mark.parametrize("seed", [-1, -1.0, "-1", -(2**63)])
def test_a_negative_seed_is_random_and_in_the_session(connect, seed):
    seeds = set()
    for _ in range(3):
        protocol = connect()
        request = protocol.receive(init(seed=seed, extensions=True), 0.0)
        (session,) = protocol.send_session("s1")
        assert msgpack.decode(session)["seed"] == request.world.seed >= 0
        seeds.add(request.world.seed)
    assert len(seeds) == 3


@pytest.mark.parametrize("write", [int, float, str])
def test_an_integer_may_be_a_whole_float_or_digits(connect, write):
    fields = {
        "seed": 65536,
        "fps": 24,
        "max_chunks": 5,
        "num_inference_steps": 2,
        "output_compression": 70,
        "realtime_preview_max_width": 64,
        "realtime_causal_sink_size": 3,
        "realtime_causal_kv_cache_num_frames": 9,
    }
    request = connect().receive(init(**{name: write(value) for name, value in fields.items()}), 0.0)
    assert request == connect().receive(init(**fields), 0.0)
    assert (request.world.seed, request.fps, request.max_chunks) == (65536, 24, 5)


@pytest.mark.parametrize(
    "sizes, size, served",
    [
        (((832, 480),), "480x832", "832x480"),  # portrait, and landscape alone is served
        (((832, 480), (480, 832)), "600x1000", "480x832"),
        ((), "830x475", "832x480"),
        ((), "4096x16", "4096x16"),
        (((832, 480),), "832x480", "832x480"),
        (((832, 480),), None, "832x480"),
    ],
)
def test_another_size_than_the_requested_one_is_a_warning(connect, info, sizes, size, served):
    request = connect(info=info(sizes=sizes)).receive(init(size=size), 0.0)
    assert f"{request.world.width}x{request.world.height}" == served
    warned = [(warning.code, warning.field) for warning in request.warnings]
    assert warned == ([] if size in (None, served) else [("size_changed", "size")])
    for warning in request.warnings:
        assert size in warning.content and served in warning.content


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
def test_a_window_and_its_sink_become_the_nearest_served(connect, window, sink, served):
    fields = {"realtime_causal_kv_cache_num_frames": window, "realtime_causal_sink_size": sink}
    request = connect().receive(init(**fields), 0.0)
    assert (request.world.window, request.world.sink) == served


def test_pacing_is_off_for_a_client_that_says_so(connect):
    assert connect().receive(init(), 0.0).paced
    assert connect().receive(init(realtime_output_pacing=True), 0.0).paced
    assert not connect().receive(init(realtime_output_pacing=False), 0.0).paced
    assert connect().receive(init(extensions=True), 0.0).paced
    assert not connect().receive(init(realtime_output_pacing=False, extensions=True), 0.0).paced


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
        (
            {"realtime_output_format": "gif"},
            "realtime_output_format",
            "'gif' is not one of 'raw', 'jpeg'",
        ),
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
            {"condition_inputs": {"camera_actions": [["w"], [5]]}},
            "condition_inputs.camera_actions[1][0]",
            "got `int`",
        ),
        (
            {"condition_inputs": {"camera_actions": {"mode": "state"}}},
            "condition_inputs.camera_actions.transitions",
            "missing",
        ),
    ],
)
def test_an_invalid_init_is_answered_and_another_may_follow(connect, fields, field, reason):
    protocol = connect()
    error = protocol.receive(init(**fields), 0.0)
    assert isinstance(error, Error)
    assert error.field == field
    assert reason in error.content
    assert len(error.content) < 300
    assert isinstance(protocol.receive(init(), 0.0), SessionRequest)


@pytest.mark.parametrize(
    "fields, prompt",
    [
        ({}, "a grey hill"),
        ({"first_frame": None, "prompt": ""}, "a grey hill"),
        ({"prompt": "snow"}, "snow"),
        ({"first_frame": b"JPEG"}, ""),
        ({"first_frame": "aGk=", "prompt": None}, ""),
        ({"first_frame": b"JPEG", "prompt": ""}, ""),
        ({"first_frame": b"JPEG", "prompt": "snow"}, "snow"),
    ],
)
def test_the_prompt_of_an_opening_belongs_to_its_image(connect, fields, prompt):
    request = connect().receive(init(**fields), 0.0)
    assert request.world.prompt == prompt
    assert request.first_frame == fields.get("first_frame")


def test_a_world_without_openings_needs_a_first_frame(connect, info):
    bare = info(openings=())
    for fields in ({}, {"prompt": "x"}):
        error = connect(info=bare).receive(init(**fields), 0.0)
        assert (error.code, error.field) == ("missing_field", "first_frame")
    for fields in ({}, {"prompt": "x"}):
        request = connect(info=bare).receive(init(first_frame=b"x", **fields), 0.0)
        assert request.world.prompt == fields.get("prompt", "")


def test_a_script_in_init_may_not_be_larger_than_one_in_an_event(connect):
    script = [[] for _ in range(70_000)]
    error = connect().receive(init(condition_inputs={"camera_actions": script}), 0.0)
    assert (error.code, error.field) == ("too_large", "condition_inputs.camera_actions")


def test_unknown_keys_and_the_beginning_of_a_long_script_are_warnings(connect):
    script = [["s"]] + [["W", "q"]] * 512
    request = connect().receive(init(condition_inputs={"camera_actions": script}), 0.0)
    assert request.script == ["w"] * 512
    assert [(one.code, one.field) for one in request.warnings] == [
        ("script_truncated", "condition_inputs.camera_actions"),
        ("unknown_keys", "condition_inputs.camera_actions"),
    ]


@pytest.mark.parametrize("field", ["enable_upscaling", "enable_frame_interpolation"])
def test_an_unsupported_wish_is_a_warning_or_an_error(connect, field):
    for value in (False, None):
        request = connect().receive(init(extensions=True, **{field: value}), 0.0)
        assert request.warnings == ()
        assert isinstance(connect().receive(init(**{field: value}), 0.0), SessionRequest)
    request = connect().receive(init(extensions=True, **{field: True}), 0.0)
    (warning,) = request.warnings
    assert (warning.code, warning.field) == ("not_supported", field)
    error = connect().receive(init(**{field: True}), 0.0)
    assert error.field == field
    assert error.content.startswith("invalid generate request")


def test_latest_and_flushing_are_for_clients_with_extensions(connect):
    wish = {
        "realtime_delivery": "latest",
        "realtime_cut_over": True,
        "realtime_output_pacing": False,
    }
    plain = connect().receive(init(**wish), 0.0)
    extended = connect().receive(init(extensions=True, **wish), 0.0)
    assert (plain.latest, plain.flushes_older, plain.paced) == (False, False, False)
    assert (extended.latest, extended.flushes_older) == (True, True)
    assert extended.paced, "frames that nobody will see are not generated ahead of time"
