import numpy as np
import pytest
from msgspec.structs import replace

from lingbot.runtime.commands import (
    CloseSession,
    ContinueRestore,
    Heartbeat,
    OpenSession,
    RestoreSession,
    ResumeSession,
    StepSession,
    Stop,
    SuspendSession,
    TakeSnapshot,
    decode_command,
    encode_command,
)
from tests.lingbot.runtime.worlds import is_same, make_history
from tests.lingbot.toy import encode, make_spec

COMMANDS = [
    StepSession(session_id="a", actions=["w", "", "ä"]),
    StepSession(session_id="x" * 10_000, actions=[]),
    SuspendSession("b", is_first=True),
    SuspendSession("b", is_first=False),
    ResumeSession("b"),
    ContinueRestore("b"),
    TakeSnapshot("b"),
    CloseSession("b"),
    Heartbeat(),
    Stop(),
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: type(command).__name__)
def test_a_command_arrives_as_it_was_sent(command):
    assert decode_command(encode_command(command)) == command


SMALL = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
IMAGES = [SMALL, make_spec().first_frame.transpose(1, 0, 2), np.ones((2, 1, 3), np.float32)]


@pytest.mark.parametrize("image", IMAGES, ids=["small", "transposed", "float32"])
def test_a_session_arrives_as_it_was_sent(image):
    sent = OpenSession("a", make_spec(first_frame=image, window=7))
    arrived = decode_command(encode_command(sent))
    assert arrived.spec.first_frame.dtype == image.dtype
    assert np.array_equal(arrived.spec.first_frame, image)
    assert np.array_equal(arrived.spec.context, sent.spec.context)
    for name in ("seed", "num_steps", "window", "sink"):
        assert getattr(arrived.spec, name) == getattr(sent.spec, name)


@pytest.mark.parametrize("dtype", [np.float32, np.uint16])
def test_a_restoration_arrives_as_it_was_sent(dtype):
    """The latents of both kinds, and a context by its prompt."""
    history = make_history(7, prompts={2: "snow", 5: ""}, recached={5}, dtype=dtype)
    sent = RestoreSession(
        session_id="a", snapshot=history.snapshot(), contexts={"snow": encode("snow")}, exact=True
    )
    arrived = decode_command(encode_command(sent))
    assert is_same(arrived.snapshot, sent.snapshot) and arrived.exact
    assert np.array_equal(arrived.contexts["snow"], sent.contexts["snow"])
    without = RestoreSession(
        session_id="a", snapshot=replace(sent.snapshot, journal=None), contexts={}
    )
    assert is_same(decode_command(encode_command(without)).snapshot, without.snapshot)


def test_a_steps_new_context_arrives_as_it_was_sent():
    sent = StepSession(
        session_id="a",
        actions=["w"],
        context=encode("snow at night"),
        prompt="snow at night",
        recache=True,
    )
    arrived = decode_command(encode_command(sent))
    assert (arrived.prompt, arrived.recache) == ("snow at night", True)
    assert arrived.context.dtype == np.float32
    assert np.array_equal(arrived.context, sent.context)
