"""Inits of worlds that go on: from a snapshot, a fork or a session whose socket was lost."""

import pytest
from msgspec import msgpack
from msgspec.structs import replace

from transport.wire.init import FromFork, FromSession, FromSnapshot
from transport.wire.world import SavedWorld


def init(**fields):
    return msgpack.encode({"type": "init"} | fields)


SOURCES = {
    "snapshot": (b"PK", FromSnapshot(b"PK")),
    "fork": ("f.1", FromFork("f.1")),
    "resume": ("g.s.x", FromSession("g.s.x")),
}
SAVED = SavedWorld(
    width=112,
    height=64,
    seed=7,
    prompt="a hill in fog",
    chunk_index=4,
    num_steps=2,
    window=15,
    sink=3,
    world=None,
)


@pytest.mark.parametrize("name", SOURCES)
def test_a_world_that_goes_on_is_the_one_of_its_source(connect, name):
    value, source = SOURCES[name]
    protocol = connect()
    request = protocol.receive(init(extensions=True, **{name: value}), 0.0)
    assert (request.source, request.first_frame) == (source, None)
    assert protocol.request.source is None, "the snapshot is not kept"
    world = protocol.accept_saved(SAVED).world
    assert (world.prompt, world.seed, world.width, world.height) == ("a hill in fog", 7, 112, 64)
    assert (world.num_steps, world.window, world.sink) == (2, 15, 3)
    assert protocol.take_controls().prompt is None
    (data,) = protocol.send_session("s1", chunk_index=9, earliest_chunk=4, resume_token="t")
    message = msgpack.decode(data)
    assert (message["seed"], message["world_chunk_index"]) == (7, 9)
    assert message["earliest_chunk_index"] == 4


@pytest.mark.parametrize("name", SOURCES)
def test_a_world_that_goes_on_needs_no_opening(connect, info, name):
    request = connect(info=info(openings=())).receive(
        init(extensions=True, **{name: SOURCES[name][0]}), 0.0
    )
    assert request.source == SOURCES[name][1]


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize(
    "other",
    [
        {"first_frame": b"PNG"},
        {"seed": 7},
        {"seed": -1},
        {"num_inference_steps": 2},
        {"realtime_causal_kv_cache_num_frames": 15},
        {"realtime_causal_sink_size": 0},
    ],
)
def test_what_a_world_has_already_is_refused(connect, name, other):
    error = connect().receive(init(extensions=True, **{name: SOURCES[name][0]}, **other), 0.0)
    (field,) = other
    assert (error.code, error.field) == ("invalid_field", field)
    assert f"expected none beside `{name}`" in error.content


def test_a_world_has_one_source(connect):
    error = connect().receive(init(extensions=True, snapshot=b"PK", resume="x", fork="y"), 0.0)
    assert (error.field, "beside `snapshot`" in error.content) == ("fork", True)
    error = connect().receive(init(extensions=True, resume="x", fork="y"), 0.0)
    assert (error.field, "beside `fork`" in error.content) == ("resume", True)


@pytest.mark.parametrize("name", SOURCES)
def test_a_source_needs_extensions(connect, name):
    error = connect().receive(init(**{name: SOURCES[name][0]}), 0.0)
    assert (error.field, error.content) == (name, f"`{name}` needs `extensions`")


@pytest.mark.parametrize(
    "fields, field",
    [
        ({"snapshot": "text"}, "snapshot"),
        ({"fork": ""}, "fork"),
        ({"resume": "x" * 257}, "resume"),
        ({"resume": b"x"}, "resume"),
    ],
)
def test_a_source_of_another_type_is_named(connect, fields, field):
    assert connect().receive(init(extensions=True, **fields), 0.0).field == field


@pytest.mark.parametrize("encodes_prompts", [False, True])
def test_a_prompt_beside_a_source_is_the_next_one(connect, info, encodes_prompts):
    protocol = connect(info=replace(info(), encodes_prompts=encodes_prompts))
    protocol.receive(init(extensions=True, snapshot=b"PK", prompt="snow"), 0.0)
    assert protocol.accept_saved(SAVED).world.prompt == "a hill in fog"
    if encodes_prompts:
        assert protocol.take_controls().prompt is None
        protocol.apply_prompt(protocol.take_new_prompt())
    assert protocol.take_controls().prompt == "snow"


@pytest.mark.parametrize("size, warns", [(None, False), ("112x64", False), ("64x112", True)])
def test_another_size_than_that_of_the_world_is_a_warning(connect, size, warns):
    protocol = connect()
    request = protocol.receive(init(extensions=True, fork="x", size=size), 0.0)
    assert request.warnings == ()
    warnings = protocol.accept_saved(SAVED).warnings
    assert [(one.code, one.field) for one in warnings] == [("size_changed", "size")] * warns


@pytest.mark.parametrize(
    "extensions, grace_s, expected", [(True, 60.0, True), (True, 0.0, False), (None, 60.0, False)]
)
def test_worlds_wait_for_clients_that_know_of_it(connect, info, extensions, grace_s, expected):
    protocol = connect(info=replace(info(), resume_grace_s=grace_s))
    assert protocol.receive(init(extensions=extensions), 0.0).world.resumable is expected


def test_the_session_has_its_token_and_its_grace(connect, info):
    protocol = connect(info=replace(info(), resume_grace_s=60.0))
    protocol.receive(init(extensions=True), 0.0)
    message = msgpack.decode(protocol.send_session("s1", resume_token="g.s.x")[0])
    assert (message["resume_token"], message["resume_grace_s"]) == ("g.s.x", 60.0)
    message = msgpack.decode(protocol.send_session("s1")[0])
    assert (message["resume_token"], message["resume_grace_s"]) == (None, None)
