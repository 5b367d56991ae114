"""A world in one piece: the few latents and numbers from which a session can be rebuilt.

Imports no torch: the transport replicas keep histories and check snapshots of clients.
"""

from typing import Any

from msgspec import Struct
from numpy.typing import NDArray

VERSION = 1


class Origin(Struct, frozen=True, kw_only=True):
    """What does not change while a world goes on."""

    preset: str
    fingerprint: str  # of the weights, and of all that decides what they compute
    width: int
    height: int
    seed: int
    num_steps: int | None
    window: int  # latent frames
    sink: int  # latent frames
    chunk: int  # latent frames
    condition: NDArray[Any]  # [16, F, h, w], the image's latents; F: all chunks of the condition


class KeptChunk(Struct, frozen=True, kw_only=True):
    """A chunk of the past."""

    index: int
    latents: NDArray[Any]  # clean, [16, F, h, w]; float32, or uint16 that holds bfloat16
    actions: tuple[str, ...]  # of its latent frames
    pitch: int  # degrees, before its first latent frame
    prompt: str


class Journal(Struct, frozen=True, kw_only=True):
    """All that a world was told, from which it can be generated again."""

    actions: tuple[tuple[str, ...], ...]  # of each chunk
    prompts: tuple[tuple[int, str], ...]  # index of the first chunk, prompt


class Snapshot(Struct, frozen=True, kw_only=True):
    """A world after some chunks: those of the sink, and the last that the window needs."""

    origin: Origin
    next_chunk: int
    pitch: int  # degrees
    prompt: str  # of the next chunk
    chunks: tuple[KeptChunk, ...]  # by index
    journal: Journal
    version: int = VERSION


def encode_snapshot(snapshot: Snapshot) -> bytes:
    """A safetensors file, whose metadata has everything but the latents as JSON."""
    raise NotImplementedError


def decode_snapshot(data: bytes, *, max_bytes: int) -> Snapshot:
    """Untrusted bytes. Raises LingbotError with the wrong field, such as `snapshot.pitch`."""
    raise NotImplementedError
