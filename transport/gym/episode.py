"""One world over one socket, a chunk at a time: what single and vector environments share.

Tested in `tests/transport/gym/test_env.py`.
"""

import io
import logging
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from gymnasium.error import ResetNeeded
from numpy.typing import NDArray
from PIL import Image

from transport.client import Chunk, Client, connect
from transport.client.news import News, describe
from transport.codecs.payload import Frame, Frames
from transport.gym.facts import Facts
from transport.wire.controls import KEYS
from transport.wire.errors import TransportError

OPTIONS = ("image", "prompt", "snapshot", "fork")
Options = dict[str, Any]

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Episode:
    """A world that generates a chunk only when it is asked for one, so that steps are in step."""

    url: str
    token: str | None
    facts: Facts
    size: tuple[int, int]
    frames: Frames | None = None  # the newest observation; None: no world is open
    chunk_index: int = 0  # of the next chunk
    seed: int = 0
    _client: Client | None = None
    _sockets: AsyncExitStack = field(default_factory=AsyncExitStack)
    _opened_with: Options | None = None  # None: not with an image, which `reset` goes back to

    async def begin(self, options: Options, *, seed: int) -> None:
        """Opens the world of a snapshot or a fork, or a new one from an image and a prompt.

        A new one generates its first chunk without a key. Raises TransportError.
        """
        fields = read_options(options)
        if not await self._reset(fields, seed=seed):
            await self._open(fields, seed=seed)
        if self.chunk_index == 0:
            self.frames = None
            await self.advance(np.zeros((self.facts.chunk_latent_frames, len(KEYS)), np.int8))

    async def advance(self, keys: NDArray[np.integer[Any]]) -> None:
        """Generates one chunk. `keys`: a row of bits for each of its latent frames."""
        client = self._opened()
        script = [[key for key, is_held in zip(KEYS, row, strict=True) if is_held] for row in keys]
        try:
            await client.send_actions(script)
            self._take(await client.next_chunk())
        except TransportError:
            await self.close()
            raise

    @property
    def observation(self) -> Frames:
        """Raises ResetNeeded while no world is open."""
        if self.frames is None:
            raise ResetNeeded("no world is open, expected a reset before")
        return self.frames

    async def save(self) -> bytes:
        """The world in one piece."""
        return await self._opened().save()

    async def fork(self) -> str:
        """A token that opens this world again, until it expires."""
        return (await self._opened().fork()).token

    async def close(self) -> None:
        """Frees the world. It may be called twice."""
        self._client = self._opened_with = self.frames = None
        await self._sockets.aclose()

    def _opened(self) -> Client:
        if self._client is None:
            raise ResetNeeded("no world is open, expected a reset before")
        return self._client

    async def _reset(self, fields: Options, *, seed: int) -> bool:
        """Begins the open world anew. False: another image or prompt needs another session."""
        if self._client is None or self._opened_with != fields:
            return False
        try:
            rewound = await self._client.reset(seed=seed)
        except TransportError:  # the session may have ended, for example in a long pause
            return False
        self.seed, self.chunk_index = rewound.seed, rewound.world_chunk_index
        return True

    async def _open(self, fields: Options, *, seed: int) -> None:
        await self.close()
        goes_on = "snapshot" in fields or "fork" in fields
        size = f"{self.size[0]}x{self.size[1]}"
        new: Options = {} if goes_on else {"seed": seed, "size": size}
        client = await self._sockets.enter_async_context(
            connect(
                self.url,
                token=self.token,
                on_news=_log,
                realtime_output_format="delta-zstd",  # lossless
                realtime_delivery="on_demand",
                **fields,
                **new,
            )
        )
        async for status in client.wait():
            _log(status)
        session = client.session
        assert session is not None
        if (served := (session.width, session.height)) != self.size:
            await self.close()
            raise TransportError(f"the world has the size {served}, expected {self.size}")
        self._client, self._opened_with = client, None if goes_on else fields
        self.seed, self.chunk_index = session.seed or 0, session.world_chunk_index
        if client.last_frame is not None:
            self.frames = self._pad(client.last_frame[np.newaxis])

    def _take(self, chunk: Chunk | None) -> None:
        if chunk is None:
            raise TransportError("the server has closed the session")
        if chunk.world_index != self.chunk_index:
            raise TransportError(
                f"chunk {chunk.world_index} has arrived, expected {self.chunk_index}: "
                "the ones between are lost"
            )
        self.chunk_index += 1
        self.frames = self._pad(chunk.frames)

    def _pad(self, frames: Frames) -> Frames:
        """A whole observation: the first of too few frames stands still before the others."""
        num_missing = self.facts.chunk_frames - len(frames)
        return np.concatenate([np.repeat(frames[:1], num_missing, axis=0), frames])


def read_options(options: Options) -> Options:
    """The fields of the wire's init. Raises ValueError for an option that has no effect."""
    for name in options:
        if name not in OPTIONS:
            raise ValueError(f"`options`: {name!r} is unknown, expected {', '.join(OPTIONS)}")
    given = {name: value for name, value in options.items() if value is not None}
    goes_on = [name for name in ("snapshot", "fork") if name in given]
    if goes_on and len(given) > 1:
        others = ", ".join(sorted(set(given) - {goes_on[0]}))
        raise ValueError(f"`options`: {goes_on[0]!r} has its own {others}, expected it alone")
    if "image" in given:
        given["first_frame"] = _encode(given.pop("image"))
    return given


def _encode(image: bytes | Frame) -> bytes:
    """An image file, or pixels as PNG."""
    if isinstance(image, bytes):
        return image
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def _log(news: News) -> None:
    logger.info("%s", describe(news))
