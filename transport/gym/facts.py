"""The served world's facts, and the spaces that follow from them."""

import urllib.error
import urllib.request
from typing import cast
from urllib.parse import urlsplit, urlunsplit

import msgspec
import numpy as np
from gymnasium import spaces
from msgspec import Struct

from transport.codecs.payload import Frames
from transport.paths import WORLD_PATH
from transport.wire.controls import KEYS
from transport.wire.errors import TransportError

TIMEOUT_S = 30.0


class Facts(Struct, frozen=True, kw_only=True):
    """The part of `GET /v1/world` that an environment needs."""

    sizes: tuple[tuple[int, int], ...]  # width, height; empty: any
    fps: int
    chunk_latent_frames: int
    chunk_frames: int


def fetch_facts(url: str, *, token: str | None = None) -> Facts:
    """The facts of the server behind a socket's address. Raises TransportError."""
    parts = urlsplit(url)
    scheme = {"ws": "http", "wss": "https"}.get(parts.scheme)
    if scheme is None or not parts.netloc:
        raise TransportError(f"`url`: {url}, expected ws://HOST:PORT/PATH", field="url")
    address = urlunsplit((scheme, parts.netloc, WORLD_PATH, "", ""))
    headers = {} if token is None else {"authorization": f"Bearer {token}"}
    request = urllib.request.Request(address, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
            return msgspec.json.decode(response.read(), type=Facts)
    except (OSError, msgspec.MsgspecError) as exc:
        if isinstance(exc, urllib.error.HTTPError):
            exc.close()  # unread; the garbage collector would warn of its socket
        raise TransportError(f"{address} does not describe a world: {exc}") from exc


def choose_size(size: tuple[int, int] | None, facts: Facts) -> tuple[int, int]:
    """The width and height of all observations. Raises ValueError for a size that is not served."""
    if size is None:
        if not facts.sizes:
            raise ValueError("`size` is missing: this server serves any, expected (width, height)")
        return facts.sizes[0]
    if facts.sizes and tuple(size) not in facts.sizes:
        listed = ", ".join(str(one) for one in facts.sizes)
        raise ValueError(f"`size`: {tuple(size)} is not served, expected one of {listed}")
    return size[0], size[1]


def observation_space(facts: Facts, *, size: tuple[int, int]) -> spaces.Space[Frames]:
    """uint8 [frames of a chunk, height, width, 3]."""
    width, height = size
    shape = (facts.chunk_frames, height, width, 3)
    return cast("spaces.Space[Frames]", spaces.Box(0, 255, shape, np.uint8))


def action_space(facts: Facts, *, per_latent_frame: bool) -> spaces.MultiBinary:
    """One bit for each key of "wasdijkl": [8], or [latent frames of a chunk, 8]."""
    return spaces.MultiBinary(
        [facts.chunk_latent_frames, len(KEYS)] if per_latent_frame else len(KEYS)
    )
