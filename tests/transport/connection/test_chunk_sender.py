import logging
import threading
from types import SimpleNamespace

import anyio
import numpy as np
import pytest
from msgspec import msgpack
from msgspec.structs import replace

from transport.codecs import open_encoder
from transport.codecs.decoder import Decoder
from transport.codecs.picture import PictureEncoder
from transport.connection.chunk_sender import ChunkSender, CodecFailed
from transport.connection.chunk_slot import GeneratedChunk
from transport.connection.sender import MessageSender
from transport.wire.controls import ChunkControls
from transport.wire.messages import Encoding
from transport.wire.output_settings import OutputSettings


class PendingFrames:
    def __init__(self, frames):
        self.frames = frames

    def __await__(self):
        yield from anyio.sleep(0).__await__()
        return self.frames


class Wire:
    """A socket that keeps what is sent, and lets a test look at each message as it goes."""

    def __init__(self, on_send=lambda data: None):
        self.sent, self._on_send = [], on_send

    async def send_bytes(self, data):
        self._on_send(data)
        self.sent.append(data)

    def messages(self):
        data, messages = iter(self.sent), []
        for one in data:
            messages.append(msgpack.decode(one))
            if messages[-1]["type"] == "frame_batch_header":
                messages[-1]["payload"] = bytes(next(data))
        return messages


def chunk(frames, index=0, *, position=0, has_new_keys=False):
    return GeneratedChunk(
        index=index,
        frames=PendingFrames(frames),
        num_frames=len(frames),
        position=position,
        controls=ChunkControls(
            actions=["w", "", "wl"], event_ids=[7], prompt=None, has_new_keys=has_new_keys
        ),
        event_id=7,
        waited_s=0.001,
        prepared_s=0.002,
        denoising_s=0.003,
    )


def run(*chunks, output, wire=None, extensions=True, cut_over=False, between=lambda index: None):
    """What a client sees of these chunks; `between` runs before each."""
    wire = wire or Wire()
    plan = SimpleNamespace(extensions=extensions, flushes_older=cut_over, fps=16)

    async def scenario():
        delivery = ChunkSender(
            MessageSender(wire, timeout_s=60),
            output,
            plan,
            session_id="s",
            limiter=anyio.CapacityLimiter(2),
        )
        for index, one in enumerate(chunks):
            between(index)
            await delivery.send(one)
        return delivery

    delivery = anyio.run(scenario)
    return wire.messages(), delivery


def pixels(messages):
    decoder = Decoder()
    batches = [message for message in messages if "payload" in message]
    return np.concatenate([decoder.decode(batch, batch["payload"]) for batch in batches])


@pytest.mark.parametrize("name", ["raw", "jpeg", "webp", "h264", "delta-zstd"])
def test_frames_arrive_in_order_in_every_codec(scenery, psnr, name):
    frames = scenery(33)
    chunks = [chunk(frames[:9], 0), chunk(frames[9:21], 1, position=9), chunk(frames[21:], 2)]
    messages, delivery = run(*chunks, output=OutputSettings(Encoding(format=name)))
    back = pixels(messages)
    if name in ("raw", "delta-zstd"):
        assert np.array_equal(back, frames)
    else:
        assert psnr(back, frames) > 33
    stats = [message for message in messages if message["type"] == "chunk_stats"]
    assert [one["num_frames"] for one in stats] == [9, 12, 12]
    assert (delivery.num_chunks, delivery.num_frames) == (3, 33)
    assert delivery.num_bytes == sum(one["ws_payload_bytes"] for one in stats)


def test_the_first_frames_leave_before_the_last_are_encoded(scenery, monkeypatch):
    """The second batch cannot be encoded before the first one was sent."""
    first_left = threading.Event()
    encode = PictureEncoder.encode

    def encode_late(self, piece):
        if piece.start:
            assert first_left.wait(10)
        return encode(self, piece)

    monkeypatch.setattr(PictureEncoder, "encode", encode_late)
    wire = Wire(lambda data: first_left.set())
    messages, _ = run(chunk(scenery(12)), output=OutputSettings(Encoding(format="jpeg")), wire=wire)
    assert [message.get("num_frames") for message in messages] == [6, 6, 12]


def test_batches_are_encoded_side_by_side_and_sent_in_order(scenery, monkeypatch):
    """The first batch is done only after the second."""
    second_done = threading.Event()
    encode = PictureEncoder.encode

    def encode_early(self, piece):
        if not piece.start:
            assert second_done.wait(10)
        payload = encode(self, piece)
        if piece.start:
            second_done.set()
        return payload

    monkeypatch.setattr(PictureEncoder, "encode", encode_early)
    messages, _ = run(chunk(scenery(12)), output=OutputSettings(Encoding(format="jpeg")))
    assert [message.get("frame_batch_index") for message in messages[:2]] == [0, 1]


def test_sessions_take_turns_at_the_places(scenery, monkeypatch):
    """One place: a short chunk does not wait until all of a long one is encoded."""
    order, begun = [], threading.Event()
    encode = PictureEncoder.encode

    def encode_noted(self, piece):
        begun.set()
        order.append(len(piece.chunk))
        return encode(self, piece)

    monkeypatch.setattr(PictureEncoder, "encode", encode_noted)
    plan = SimpleNamespace(extensions=False, flushes_older=False, fps=16)

    async def scenario():
        limiter = anyio.CapacityLimiter(1)
        long, short = (
            ChunkSender(
                MessageSender(Wire(), timeout_s=60),
                OutputSettings(Encoding(format="jpeg")),
                plan,
                session_id=name,
                limiter=limiter,
            )
            for name in ("long", "short")
        )
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(long.send, chunk(scenery(60)))
            while not begun.is_set():
                await anyio.sleep(0)
            tasks.start_soon(short.send, chunk(scenery(6)))

    anyio.run(scenario)
    assert order.index(6) < 4, "the others had to wait for all ten"


def test_a_change_of_output_takes_effect_with_the_next_chunk(scenery):
    output = OutputSettings(Encoding(format="raw"))
    changes = {
        1: Encoding(format="jpeg", preview_max_width=56),
        2: Encoding(format="h264"),
        3: Encoding(format="raw"),
    }

    def change(index):
        output.encoding = changes.get(index, output.encoding)

    frames = scenery(12)
    messages, _ = run(*(chunk(frames, i) for i in range(4)), output=output, between=change)
    seen = {}
    for message in messages:
        if "payload" in message:
            seen[message["chunk_index"]] = (message["encoding"], message["width"])
    assert seen == {0: ("raw", 112), 1: ("jpeg", 56), 2: ("h264", 112), 3: ("raw", 112)}


def test_a_key_frame_comes_with_the_next_chunk_after_it_was_wanted(scenery):
    output = OutputSettings(Encoding(format="h264"))

    def want(index):
        output.key_frame_wanted = index == 2

    messages, _ = run(*(chunk(scenery(3), i) for i in range(4)), output=output, between=want)
    keys = [message["key_frame"] for message in messages if "payload" in message]
    assert keys == [True, False, False] + [False] * 3 + [True, False, False] + [False] * 3


@pytest.mark.parametrize("name", ["jpeg", "webp", "h264", "delta-zstd"])
def test_no_codec_encodes_on_the_event_loop(scenery, monkeypatch, name):
    threads = set()

    def open_watched(encoding, **options):
        encoder = open_encoder(encoding, **options)
        encode = encoder.encode

        def encode_watched(piece):
            threads.add(threading.get_ident())
            return encode(piece)

        encoder.encode = encode_watched
        return encoder

    monkeypatch.setattr("transport.connection.chunk_sender.open_encoder", open_watched)
    run(chunk(scenery(12)), output=OutputSettings(Encoding(format=name)))
    assert threads and threading.get_ident() not in threads


def test_after_dropped_frames_comes_a_key_frame(scenery):
    async def scenario():
        wire, plan = Wire(), SimpleNamespace(extensions=True, flushes_older=False, fps=16)
        limiter = anyio.CapacityLimiter(1)
        output = OutputSettings(Encoding(format="h264"))
        delivery = ChunkSender(
            MessageSender(wire, timeout_s=60), output, plan, session_id="s", limiter=limiter
        )
        for index, dropped in enumerate((0, 0, 24, 24)):
            await delivery.send(chunk(scenery(2), index), dropped_frames=dropped)
        return [message for message in wire.messages() if "payload" in message]

    batches = anyio.run(scenario)
    assert [one["key_frame"] for one in batches] == [True, False] + [False] * 2 + [True] + [
        False
    ] * 3
    assert [one.get("dropped_frames", 0) for one in batches] == [0] * 4 + [24] * 4


class Flaky:
    """Encodes one frame a message, and breaks at the third."""

    is_sequential, needs_worker = True, True

    def __init__(self, real):
        self._real = real

    def encode(self, piece):
        if piece.start == 2:
            raise ArithmeticError("lost in rounding")
        payload = self._real.encode(piece)
        return replace(payload, num_frames=1)

    def max_batch_frames(self, frame_bytes):
        return 1

    def restart(self):
        pass


@pytest.fixture
def break_h264(monkeypatch):
    def open_flaky(encoding, **options):
        real = open_encoder(encoding, **options)
        return Flaky(real) if encoding.format == "h264" else real

    monkeypatch.setattr("transport.connection.chunk_sender.open_encoder", open_flaky)


def test_a_codec_that_fails_gives_way_to_jpeg_and_no_frame_is_lost(
    scenery, psnr, break_h264, caplog
):
    frames, output = scenery(24), OutputSettings(Encoding(format="h264", quality=80))
    messages, _ = run(chunk(frames[:12]), chunk(frames[12:], 1), output=output)
    assert [message["type"] for message in messages].count("warning") == 1
    warning = next(message for message in messages if message["type"] == "warning")
    assert (warning["code"], "h264 failed" in warning["content"]) == ("codec_failed", True)
    assert "rounding" not in warning["content"]
    batches = [message for message in messages if "payload" in message]
    first = [batch for batch in batches if batch["chunk_index"] == 0]
    assert [batch["encoding"] for batch in first] == ["h264", "h264", "jpeg", "jpeg"]
    assert [batch["num_frames"] for batch in first] == [1, 1, 6, 4]
    assert [batch["frame_batch_index"] for batch in first] == [0, 1, 2, 3]
    assert [batch["is_final_frame_batch"] for batch in first] == [False, False, False, True]
    assert psnr(pixels(messages), frames) > 33
    assert output.encoding == Encoding(format="jpeg", quality=80)
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert "rounding" in caplog.text


def test_a_plain_client_gets_jpeg_without_a_word(scenery, break_h264):
    output = OutputSettings(Encoding(format="h264"))
    messages, _ = run(chunk(scenery(12)), output=output, extensions=False)
    assert {message["type"] for message in messages} == {"frame_batch", "chunk_stats"}


def test_what_a_client_asked_for_meanwhile_is_not_overruled(scenery, break_h264):
    output = OutputSettings(Encoding(format="h264"))

    def ask(data):
        output.encoding = Encoding(format="webp")

    messages, _ = run(chunk(scenery(12)), chunk(scenery(6), 1), output=output, wire=Wire(ask))
    encodings = [message["encoding"] for message in messages if "payload" in message]
    assert encodings == ["h264", "h264", "jpeg", "jpeg", "webp"], "it begins with the next chunk"


def test_where_jpeg_fails_too_the_session_fails(scenery, monkeypatch):
    def fail(self, piece):
        raise ArithmeticError

    monkeypatch.setattr(PictureEncoder, "encode", fail)
    with pytest.raises(CodecFailed) as caught:
        run(chunk(scenery(12)), output=OutputSettings(Encoding(format="jpeg")))
    assert isinstance(caught.value.__cause__, ArithmeticError)


def test_a_chunk_that_was_steered_cuts_over_for_who_can(scenery):
    marks = {}
    for cut_over in (False, True):
        chunks = [chunk(scenery(12), i, has_new_keys=i == 1) for i in range(3)]
        messages, _ = run(
            *chunks, output=OutputSettings(Encoding(format="jpeg")), cut_over=cut_over
        )
        headers = [message for message in messages if "payload" in message]
        marks[cut_over] = [header.get("cut_over", False) for header in headers]
    # With the first of its two batches: who empties its queue then keeps the chunk's own frames.
    assert marks == {False: [False] * 6, True: [False] * 2 + [True, False] + [False] * 2}


def test_the_plain_wire_has_no_extras(scenery):
    messages, _ = run(
        chunk(scenery(3), has_new_keys=True), output=OutputSettings(), extensions=False
    )
    assert not {"applied_controls", "cut_over", "dropped_frames"} & set(messages[0])
    assert messages[0]["event_id"] == 7
