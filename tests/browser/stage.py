"""What the tests of the page share: ways in, and what is said and shown there."""

import base64
import io
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from msgspec import msgpack
from PIL import Image
from playwright.sync_api import Page, WebSocket, WebSocketRoute

from transport.codecs import open_encoder
from transport.codecs.decoder import Decoder
from transport.codecs.payload import Frames, build_message, split_chunk
from transport.wire.messages import AppliedControls, Encoding, Format, HeaderExtras

SOCKET = "**/v1/realtime_video/generate"
FPS = 16


def enter(page: Page) -> None:
    page.click("#enter")
    wait_until_playing(page)


def wait_until_playing(page: Page) -> None:
    page.wait_for_function("lingbot.stats?.framesShown > 0 || lingbot.state === 'ended'")
    assert page.evaluate("lingbot.state") == "playing", page.inner_text("#card")


def choose_format(page: Page, name: str) -> None:
    """On the start screen."""
    page.click("summary")
    page.select_option("#format", name)


def wait_for_actions(page: Page, keys: list[str]) -> None:
    """Until a whole chunk follows exactly these keys."""
    page.wait_for_function(
        "keys => lingbot.stats.applied.actions.every(held => held.join() === keys.join())",
        arg=keys,
    )


def listen_to_client(page: Page) -> list[dict[str, Any]]:
    """What the page sends on its sockets, growing as it does."""
    messages: list[dict[str, Any]] = []

    def note(data: str | bytes) -> None:
        assert isinstance(data, bytes)
        messages.append(msgpack.decode(data))

    def listen(socket: WebSocket) -> None:
        socket.on("framesent", note)

    page.on("websocket", listen)
    return messages


def answer_init(page: Page, *messages: dict[str, Any] | bytes) -> list[dict[str, Any]]:
    """A server that answers with these alone, and never closes; what it is told, as it grows."""
    told: list[dict[str, Any]] = []

    def answer(socket: WebSocketRoute) -> None:
        def reply(data: str | bytes) -> None:
            assert isinstance(data, bytes)
            told.append(msgpack.decode(data))
            if told[-1]["type"] == "init":
                for message in messages:
                    socket.send(message if isinstance(message, bytes) else msgpack.encode(message))

        socket.on_message(reply)

    page.route_web_socket(SOCKET, answer)
    return told


def chunk(
    frames: Frames,
    *,
    index: int,
    name: Format = "raw",
    quality: int = 90,
    cut_over: bool = False,
) -> list[bytes]:
    """The messages of one chunk, by the server's own codec."""
    encoder = open_encoder(Encoding(format=name, quality=quality), fps=FPS)
    pieces = split_chunk(frames, encoder, position=index * len(frames))
    batches = [
        build_message(
            encoder.encode(piece),
            request_id=f"made-up-{index}",
            chunk_index=index,
            index=position,
            num_batches=len(pieces),
            extras=HeaderExtras(AppliedControls([], []), cut_over=cut_over),
        )
        for position, piece in enumerate(pieces)
    ]
    return [bytes(part) for batch in batches for part in batch.parts]


def grey(num_frames: int, level: int, *, width: int = 112, height: int = 64) -> Frames:
    return np.full((num_frames, height, width, 3), level, np.uint8)


def shown_frame(page: Page) -> tuple[tuple[int, int], Frames]:
    """(chunk, frame in it) and the pixels [H, W, 3] that are on the canvas."""
    frame = page.evaluate(
        """async () => {
            const { data, ...frame } = await lingbot.lastFrame();
            const blob = new Blob([data]);
            const url = await new Promise((resolve) => {
                const reader = new FileReader();
                reader.onload = () => resolve(reader.result);
                reader.readAsDataURL(blob);
            });
            return { ...frame, data: url.split(",")[1] };
        }"""
    )
    rgba = np.frombuffer(base64.b64decode(frame["data"]), np.uint8)
    pixels = rgba.reshape(frame["height"], frame["width"], 4)[:, :, :3]
    return (frame["chunkIndex"], frame["frameIndex"]), pixels


def psnr(one: Frames, other: Frames) -> float:
    """In dB; infinite where they are equal."""
    error = np.mean((one.astype(float) - other.astype(float)) ** 2)
    return float("inf") if error == 0 else float(10 * np.log10(255**2 / error))


def png(width: int, height: int) -> bytes:
    data = io.BytesIO()
    Image.linear_gradient("L").convert("RGB").resize((width, height)).save(data, "PNG")
    return data.getvalue()


def batches(messages: Iterable[bytes]) -> Iterator[tuple[dict[str, Any], bytes]]:
    """(header, payload) of every batch among them."""
    header: dict[str, Any] | None = None
    for data in messages:
        if header is not None:
            yield header, data
            header = None
            continue
        message = msgpack.decode(data)
        if message["type"] == "frame_batch_header":
            header = message
        elif message["type"] == "frame_batch":
            yield message, message["payload"]


def decode(messages: list[bytes]) -> Frames:
    """The frames of one chunk."""
    decoder = Decoder()
    return np.concatenate([decoder.decode(*batch) for batch in batches(messages)])


class Relay:
    """Between page and server: hands on what both say, and keeps the frames that were sent."""

    def __init__(self, page: Page) -> None:
        self.codecs: list[str] = []  # of each chunk
        self.frames: dict[tuple[int, int], Frames] = {}  # by chunk and frame in it
        self.sockets: list[WebSocketRoute] = []  # the page's side of each
        page.route_web_socket(SOCKET, self._join)

    def _join(self, socket: WebSocketRoute) -> None:
        self.sockets.append(socket)
        server = socket.connect_to_server()
        decoder = Decoder()
        header: dict[str, Any] | None = None

        def hear(data: str | bytes) -> None:
            nonlocal header
            assert isinstance(data, bytes)
            socket.send(data)
            message = header or msgpack.decode(data)
            if header is not None:
                self._keep(decoder, message, data)
                header = None
            elif message["type"] == "frame_batch_header":
                header = message
            elif message["type"] == "frame_batch":
                self._keep(decoder, message, message["payload"])

        server.on_message(hear)

    def _keep(self, decoder: Decoder, header: dict[str, Any], payload: bytes) -> None:
        index = header["chunk_index"]
        if header["frame_batch_index"] == 0:
            self.codecs.append(header["encoding"])
            self._num = 0
        for frame in decoder.decode(header, payload):
            self.frames[index, self._num] = frame
            self._num += 1
