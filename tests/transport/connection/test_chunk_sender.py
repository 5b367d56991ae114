import logging
import threading

import anyio
import numpy as np
import pytest
from msgspec import msgpack
from msgspec.structs import replace

from tests.waiting import TIMEOUT_S
from transport.codecs import open_encoder
from transport.codecs.decoder import Decoder
from transport.codecs.picture import PictureEncoder
from transport.connection.chunk_sender import CodecFailed, milliseconds
from transport.connection.chunk_slot import GeneratedChunk
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
    """A socket that keeps all data. `on_send` is called before each frame."""

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
            actions=["w", "", "wl"],
            event_ids=[7],
            prompt=None,
            event_id=7,
            has_new_keys=has_new_keys,
        ),
        begun_s=0.0,
        waited_s=0.001,
        prepared_s=0.002,
        denoising_s=0.003,
    )


@pytest.fixture
def send(start, make_chunk_sender):
    """Sends chunks, and returns the messages that a client receives and the chunk sender.

    `between` is called before each chunk.
    """

    def run(
        *chunks,
        output,
        wire=None,
        extensions=True,
        flushes_older=False,
        between=lambda index: None,
    ):
        wire = wire or Wire()
        protocol = start(extensions=extensions, realtime_cut_over=flushes_older)
        protocol.output = output

        async def scenario():
            chunk_sender = make_chunk_sender(wire, protocol)
            for index, one in enumerate(chunks):
                between(index)
                await chunk_sender.send(one)
            return chunk_sender

        chunk_sender = anyio.run(scenario)
        return wire.messages(), chunk_sender

    return run


def pixels(messages):
    decoder = Decoder()
    batches = [message for message in messages if "payload" in message]
    return np.concatenate([decoder.decode(batch, batch["payload"]) for batch in batches])


@pytest.mark.parametrize("name", ["raw", "jpeg", "webp", "h264", "delta-zstd"])
def test_frames_arrive_in_order_in_every_codec(send, scenery, psnr, name):
    frames = scenery(33)
    chunks = [chunk(frames[:9], 0), chunk(frames[9:21], 1, position=9), chunk(frames[21:], 2)]
    messages, chunk_sender = send(*chunks, output=OutputSettings(Encoding(format=name)))
    back = pixels(messages)
    if name in ("raw", "delta-zstd"):
        assert np.array_equal(back, frames)
    else:
        assert psnr(back, frames) > 33
    stats = [message for message in messages if message["type"] == "chunk_stats"]
    assert [one["num_frames"] for one in stats] == [9, 12, 12]
    assert (chunk_sender.num_chunks, chunk_sender.num_frames) == (3, 33)
    assert chunk_sender.num_bytes == sum(one["ws_payload_bytes"] for one in stats)


def test_the_first_frames_leave_before_the_last_are_encoded(send, scenery, monkeypatch):
    """The second batch cannot be encoded before the first is sent."""
    first_left = threading.Event()
    encode = PictureEncoder.encode

    def encode_late(self, piece):
        if piece.start:
            assert first_left.wait(TIMEOUT_S)
        return encode(self, piece)

    monkeypatch.setattr(PictureEncoder, "encode", encode_late)
    wire = Wire(lambda data: first_left.set())
    messages, _ = send(
        chunk(scenery(12)), output=OutputSettings(Encoding(format="jpeg")), wire=wire
    )
    assert [message.get("num_frames") for message in messages] == [6, 6, 12]


def test_batches_are_encoded_side_by_side_and_sent_in_order(send, scenery, monkeypatch):
    """The encoding of the first batch ends after that of the second."""
    second_done = threading.Event()
    encode = PictureEncoder.encode

    def encode_early(self, piece):
        if not piece.start:
            assert second_done.wait(TIMEOUT_S)
        payload = encode(self, piece)
        if piece.start:
            second_done.set()
        return payload

    monkeypatch.setattr(PictureEncoder, "encode", encode_early)
    messages, _ = send(chunk(scenery(12)), output=OutputSettings(Encoding(format="jpeg")))
    assert [message.get("frame_batch_index") for message in messages[:2]] == [0, 1]


def test_sessions_take_turns_at_the_workers(start, make_chunk_sender, scenery, monkeypatch):
    """With one worker, a short chunk does not wait until all of a long one is encoded."""
    order, begun = [], threading.Event()
    encode = PictureEncoder.encode

    def encode_noted(self, piece):
        begun.set()
        order.append(len(piece.chunk))
        return encode(self, piece)

    monkeypatch.setattr(PictureEncoder, "encode", encode_noted)

    async def scenario():
        limiter = anyio.CapacityLimiter(1)
        long, short = (
            make_chunk_sender(Wire(), start(realtime_output_format="jpeg"), limiter=limiter)
            for _ in range(2)
        )
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(long.send, chunk(scenery(60)))
            while not begun.is_set():
                await anyio.sleep(0)
            tasks.start_soon(short.send, chunk(scenery(6)))

    anyio.run(scenario)
    assert order.index(6) < 4, "the short chunk had to wait for all ten"


def test_a_change_of_output_takes_effect_with_the_next_chunk(send, scenery):
    output = OutputSettings(Encoding(format="raw"))
    changes = {
        1: Encoding(format="jpeg", preview_max_width=56),
        2: Encoding(format="h264"),
        3: Encoding(format="raw"),
    }

    def change(index):
        output.encoding = changes.get(index, output.encoding)

    frames = scenery(12)
    messages, _ = send(*(chunk(frames, i) for i in range(4)), output=output, between=change)
    seen = {}
    for message in messages:
        if "payload" in message:
            seen[message["chunk_index"]] = (message["encoding"], message["width"])
    assert seen == {0: ("raw", 112), 1: ("jpeg", 56), 2: ("h264", 112), 3: ("raw", 112)}


def test_a_requested_key_frame_comes_with_the_next_chunk(send, scenery):
    output = OutputSettings(Encoding(format="h264"))

    def want(index):
        output.key_frame_wanted = index == 2

    messages, _ = send(*(chunk(scenery(3), i) for i in range(4)), output=output, between=want)
    keys = [message["key_frame"] for message in messages if "payload" in message]
    assert keys == [True, False, False] + [False] * 3 + [True, False, False] + [False] * 3


@pytest.mark.parametrize("name", ["jpeg", "webp", "h264", "delta-zstd"])
def test_no_codec_encodes_on_the_event_loop(send, scenery, monkeypatch, name):
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
    send(chunk(scenery(12)), output=OutputSettings(Encoding(format=name)))
    assert threads and threading.get_ident() not in threads


def test_a_key_frame_follows_dropped_frames(start, make_chunk_sender, scenery):
    async def scenario():
        wire, protocol = Wire(), start(extensions=True, realtime_output_format="h264")
        chunk_sender = make_chunk_sender(wire, protocol)
        for index, dropped in enumerate((0, 0, 24, 24)):
            await chunk_sender.send(chunk(scenery(2), index), dropped_frames=dropped)
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


def test_jpeg_replaces_a_codec_that_fails_and_no_frame_is_lost(
    send, scenery, psnr, break_h264, caplog
):
    frames, output = scenery(24), OutputSettings(Encoding(format="h264", quality=80))
    messages, _ = send(chunk(frames[:12]), chunk(frames[12:], 1), output=output)
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


def test_a_plain_client_gets_jpeg_without_a_warning(send, scenery, break_h264):
    output = OutputSettings(Encoding(format="h264"))
    messages, _ = send(chunk(scenery(12)), output=output, extensions=False)
    assert {message["type"] for message in messages} == {"frame_batch", "chunk_stats"}


def test_a_fallback_does_not_overrule_a_newer_request(send, scenery, break_h264):
    output = OutputSettings(Encoding(format="h264"))

    def ask(data):
        output.encoding = Encoding(format="webp")

    messages, _ = send(chunk(scenery(12)), chunk(scenery(6), 1), output=output, wire=Wire(ask))
    encodings = [message["encoding"] for message in messages if "payload" in message]
    assert encodings == ["h264", "h264", "jpeg", "jpeg", "webp"], (
        "the new format begins with the next chunk"
    )


def test_a_session_fails_if_jpeg_fails_too(send, scenery, monkeypatch):
    def fail(self, piece):
        raise ArithmeticError

    monkeypatch.setattr(PictureEncoder, "encode", fail)
    with pytest.raises(CodecFailed) as caught:
        send(chunk(scenery(12)), output=OutputSettings(Encoding(format="jpeg")))
    assert isinstance(caught.value.__cause__, ArithmeticError)


def test_a_chunk_with_new_keys_is_cut_over_for_a_client_that_flushes(send, scenery):
    marks = {}
    for flushes_older in (False, True):
        chunks = [chunk(scenery(12), i, has_new_keys=i == 1) for i in range(3)]
        messages, _ = send(
            *chunks, output=OutputSettings(Encoding(format="jpeg")), flushes_older=flushes_older
        )
        headers = [message for message in messages if "payload" in message]
        marks[flushes_older] = [header.get("cut_over", False) for header in headers]
    # Only on the first of its two batches: a client that flushes keeps the chunk's own frames.
    assert marks == {False: [False] * 6, True: [False] * 2 + [True, False] + [False] * 2}


def test_the_plain_wire_has_no_extras(send, scenery):
    messages, _ = send(
        chunk(scenery(3), has_new_keys=True), output=OutputSettings(), extensions=False
    )
    assert not {"applied_controls", "cut_over", "dropped_frames"} & set(messages[0])
    assert messages[0]["event_id"] == 7


@pytest.mark.parametrize(
    "seconds, expected", [(0.0, 0), (0.0005, 1), (0.0004, 0), (-0.2, 0), (1.2345, 1235)]
)
def test_milliseconds_round_half_up_and_are_never_negative(seconds, expected):
    assert milliseconds(seconds) == expected
