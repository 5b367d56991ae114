"""A world in one piece: the few latents and numbers from which a session can be rebuilt.

Imports no torch: the transport replicas keep histories and check snapshots of clients. Shape
letters: F latent frames, h w latent pixels.
"""

import re
from collections.abc import Iterable, Sequence
from itertools import groupby
from textwrap import shorten
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta, Struct
from numpy.typing import NDArray

from lingbot.camera.motion import PITCH_LIMIT, check_action
from lingbot.config import LATENT_CHANNELS, SIZE_MULTIPLE, SPATIAL_STRIDE, check_window
from lingbot.errors import LingbotError
from lingbot.runtime.snapshot_check import check_kept, check_pitches, wrong_field
from lingbot.runtime.tensor_file import read_tensors, write_tensors

VERSION = 1
MAX_PROMPT_CHARS = 8000
MAX_CHUNKS = 2**31
MAX_JOURNAL_FRAMES = 2**18  # latent frames: 18 hours at 16 frames a second
MAX_JOURNAL_CHARS = 2**18  # of all prompts
MAX_JOURNAL_BYTES = 2**19  # as JSON: its parser holds Python's lock all the while, for 40 ms
MAX_LATENT = 100.0  # clean latents are about normal
CONDITION = "condition"  # the name of its tensor; those of chunks are their indices
EXTRA_CHUNKS = 1  # kept before those of the window: their context; see `docs/benchmarks.md`
# Kept before those by a session, and handed over with it: a client that lost its socket has not
# received the last ones, and turns the world back
RESUMED_CHUNKS = 3
DECODED_CHUNKS = 2  # the last chunks that are decoded again, for the decoder's state


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

    @property
    def sink_chunks(self) -> int:
        """The world's first chunks, which have the sink's latent frames."""
        return -(-self.sink // self.chunk)

    @property
    def window_chunks(self) -> int:
        """The least number of last chunks from which a world can go on.

        They are those that the next chunk sees beside the sink, and one that is shown.
        """
        return max(1, -(-(self.window - self.sink - self.chunk) // self.chunk))

    @property
    def kept_chunks(self) -> int:
        """The last chunks of a snapshot, beside those of the sink."""
        return max(self.window_chunks + EXTRA_CHUNKS, DECODED_CHUNKS)


class KeptChunk(Struct, frozen=True, kw_only=True):
    """A chunk of the past."""

    index: int
    latents: NDArray[Any]  # clean, [16, F, h, w]; float32, or uint16 that holds bfloat16
    actions: tuple[str, ...]  # of its latent frames
    pitch: int  # degrees, before its first latent frame
    prompt: str  # under which the window has its keys and values


class Journal(Struct, frozen=True, kw_only=True):
    """All that a world was told, from which it can be generated again."""

    actions: tuple[tuple[str, ...], ...]  # of each chunk
    prompts: tuple[tuple[int, str], ...]  # index of the first chunk, prompt
    recached: tuple[int, ...] = ()  # chunks before which the window was rebuilt under a new prompt


class Snapshot(Struct, frozen=True, kw_only=True):
    """A world after some chunks: those of the sink, and the last that the window needs."""

    origin: Origin
    next_chunk: int
    pitch: int  # degrees
    prompt: str  # of the next chunk
    chunks: tuple[KeptChunk, ...]  # by index
    journal: Journal | None  # None: the world is too old for one
    version: int = VERSION

    @property
    def num_bytes(self) -> int:
        """Bytes of the latents."""
        return self.origin.condition.nbytes + sum(chunk.latents.nbytes for chunk in self.chunks)


def needed_prompts(snapshot: Snapshot, *, exact: bool = False) -> tuple[str, ...]:
    """The prompts whose contexts `Engine.restore` takes, each once."""
    found: Iterable[str]
    if exact and snapshot.journal is not None:
        found = [prompt for _, prompt in snapshot.journal.prompts]
    else:
        found = [chunk.prompt for chunk in snapshot.chunks]
    return tuple(dict.fromkeys([*found, snapshot.prompt]))


# ---- as a file

Int64 = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Index = Annotated[int, Meta(ge=0, le=MAX_CHUNKS)]
Frames = Annotated[int, Meta(ge=0, le=1024)]
Pixels = Annotated[int, Meta(ge=SIZE_MULTIPLE, le=8192, multiple_of=SIZE_MULTIPLE)]
Pitch = Annotated[int, Meta(ge=-PITCH_LIMIT, le=PITCH_LIMIT)]
Name = Annotated[str, Meta(max_length=128)]
Prompt = Annotated[str, Meta(max_length=MAX_PROMPT_CHARS)]
Run = tuple[Annotated[str, Meta(max_length=8)], Annotated[int, Meta(ge=1, le=MAX_JOURNAL_FRAMES)]]


class StoredChunk(Struct, forbid_unknown_fields=True, kw_only=True):
    """A kept chunk without its latents."""

    index: Index
    pitch: Pitch
    prompt: Index  # number of the text
    actions: list[Annotated[str, Meta(max_length=8)]]


class StoredJournal(Struct, forbid_unknown_fields=True):
    """A journal whose actions are runs of latent frames."""

    actions: list[Run]
    prompts: Annotated[list[tuple[Index, Index]], Meta(min_length=1)]  # chunk, number of the text
    recached: list[Index]


class StoredSnapshot(Struct, kw_only=True, forbid_unknown_fields=True):
    """Everything but the latents, as JSON."""

    version: int
    preset: Name
    fingerprint: Name
    width: Pixels
    height: Pixels
    seed: Int64
    num_steps: Annotated[int, Meta(ge=1, le=1000)] | None
    window: Annotated[int, Meta(ge=1, le=1024)]
    sink: Frames
    chunk: Annotated[int, Meta(ge=1, le=64)]
    next_chunk: Index
    pitch: Pitch
    prompt: Index  # number of the text
    texts: list[Prompt]
    chunks: list[StoredChunk]
    journal: msgspec.Raw  # a StoredJournal, or null; parsed once its length is known


class StoredVersion(Struct):
    """The one field of every version of the format."""

    version: int


NO_JOURNAL = msgspec.Raw(b"null")


def encode_snapshot(snapshot: Snapshot) -> bytes:
    """A safetensors file, whose metadata has everything but the latents as JSON.

    A journal of more than MAX_JOURNAL_BYTES is left out, as that of a world that is too old.
    """
    numbers: dict[str, int] = {}

    def number(text: str) -> int:
        return numbers.setdefault(text, len(numbers))

    origin, journal = snapshot.origin, snapshot.journal
    stored = StoredSnapshot(
        **{name: getattr(origin, name) for name in origin.__struct_fields__ if name != CONDITION},
        version=snapshot.version,
        next_chunk=snapshot.next_chunk,
        pitch=snapshot.pitch,
        prompt=number(snapshot.prompt),
        texts=[],
        chunks=[
            StoredChunk(
                index=chunk.index,
                pitch=chunk.pitch,
                prompt=number(chunk.prompt),
                actions=list(chunk.actions),
            )
            for chunk in snapshot.chunks
        ],
        journal=NO_JOURNAL,
    )
    stored.texts = list(numbers)
    if journal is not None:
        prompts = [(index, number(prompt)) for index, prompt in journal.prompts]
        told = StoredJournal(_runs(journal.actions), prompts, list(journal.recached))
        encoded = msgspec.json.encode(told)
        if len(encoded) <= MAX_JOURNAL_BYTES:
            stored.journal, stored.texts = msgspec.Raw(encoded), list(numbers)
    tensors = {CONDITION: origin.condition}
    tensors |= {str(chunk.index): chunk.latents for chunk in snapshot.chunks}
    return write_tensors(tensors, msgspec.json.encode(stored).decode())


def decode_snapshot(data: bytes, *, max_bytes: int) -> Snapshot:
    """Untrusted bytes. Raises LingbotError with the wrong field, such as `snapshot.pitch`.

    All parts of the snapshot fit together. `check_snapshot` compares it with the served world.
    """
    if len(data) > max_bytes:
        raise LingbotError(
            f"snapshot has {len(data)} bytes, expected at most {max_bytes}", field="snapshot"
        )
    try:
        tensors, text = read_tensors(data)
    except LingbotError as exc:
        raise LingbotError(f"snapshot is {exc}", field="snapshot") from exc
    version = _decode_json(text, StoredVersion).version
    if version != VERSION:
        raise wrong_field("version", f"must be {VERSION}, not {version}")
    stored = _decode_json(text, StoredSnapshot)
    snapshot = Snapshot(
        origin=_read_origin(stored, tensors),
        next_chunk=stored.next_chunk,
        pitch=stored.pitch,
        prompt=_text(stored, stored.prompt, "prompt"),
        chunks=_read_chunks(stored, tensors),
        journal=_read_journal(stored),
    )
    if tensors:
        raise wrong_field("chunks", f"must be {len(stored.chunks)}, not {len(tensors)} more")
    check_kept(snapshot)
    check_pitches(snapshot)
    return snapshot


def _decode_json(text: str | msgspec.Raw, kind: Any, *, field: str = "snapshot") -> Any:
    try:
        return msgspec.json.decode(text, type=kind)
    except (ValueError, RecursionError) as exc:  # ValueError: msgspec's, too
        path = re.search(r" - at `\$([^`]*)`$", str(exc))
        field += path[1] if path else ""
        reason = shorten(str(exc).rsplit(" - at", 1)[0], 200, placeholder=" …")
        raise LingbotError(f"{field} is not valid: {reason}", field=field) from exc


def _text(stored: StoredSnapshot, number: int, field: str) -> str:
    if number >= len(stored.texts):
        raise wrong_field(field, f"must be one of {len(stored.texts)} texts, not number {number}")
    return stored.texts[number]


def _read_origin(stored: StoredSnapshot, tensors: dict[str, NDArray[Any]]) -> Origin:
    try:
        check_window(stored.window, sink=stored.sink, chunk=stored.chunk)
    except ValueError as exc:
        raise wrong_field("window", f"does not fit: {exc}") from exc
    condition = _take(tensors, CONDITION, stored, field=CONDITION)
    if not condition.shape[1] or condition.shape[1] % stored.chunk:
        raise wrong_field(CONDITION, f"must have whole chunks of {stored.chunk} latent frames")
    names = [name for name in Origin.__struct_fields__ if name != CONDITION]
    return Origin(**{name: getattr(stored, name) for name in names}, condition=condition)


def _read_chunks(stored: StoredSnapshot, tensors: dict[str, NDArray[Any]]) -> tuple[KeptChunk, ...]:
    chunks = []
    for number, chunk in enumerate(stored.chunks):
        field = f"chunks[{number}]"
        latents = _take(tensors, str(chunk.index), stored, field=f"{field}.latents")
        if latents.shape[1] != stored.chunk or len(chunk.actions) != stored.chunk:
            raise wrong_field(field, f"must have {stored.chunk} latent frames and as many actions")
        for action in chunk.actions:
            _check_action(action, f"{field}.actions")
        prompt = _text(stored, chunk.prompt, f"{field}.prompt")
        chunks.append(
            KeptChunk(
                index=chunk.index,
                latents=latents,
                actions=tuple(chunk.actions),
                pitch=chunk.pitch,
                prompt=prompt,
            )
        )
    return tuple(chunks)


def _read_journal(stored: StoredSnapshot) -> Journal | None:
    if (num_bytes := len(stored.journal)) > MAX_JOURNAL_BYTES:
        raise wrong_field(
            "journal", f"must have at most {MAX_JOURNAL_BYTES} bytes, not {num_bytes}"
        )
    journal = _decode_json(stored.journal, StoredJournal | None, field="snapshot.journal")
    if journal is None:
        return None
    num_frames = sum(count for _, count in journal.actions)
    expected = stored.next_chunk * stored.chunk
    if num_frames != expected or num_frames > MAX_JOURNAL_FRAMES:
        must = min(expected, MAX_JOURNAL_FRAMES)
        raise wrong_field("journal.actions", f"must have {must} latent frames, not {num_frames}")
    for action, _ in journal.actions:
        _check_action(action, "journal.actions")
    indices = [index for index, _ in journal.prompts]
    is_ordered = indices == sorted(indices) and indices[-1] <= max(0, stored.next_chunk - 1)
    if indices[0] or not is_ordered:
        raise wrong_field("journal.prompts", "must begin at chunk 0 and rise to the last chunk")
    prompts = [_text(stored, number, "journal.prompts") for _, number in journal.prompts]
    if sum(map(len, prompts)) > MAX_JOURNAL_CHARS:
        raise wrong_field("journal.prompts", f"must have at most {MAX_JOURNAL_CHARS} characters")
    recached = journal.recached
    if recached != sorted(set(recached) & set(indices[1:])):
        raise wrong_field("journal.recached", "must be chunks of new prompts, in order")
    return Journal(
        actions=_chunks_of(journal.actions, stored.chunk),
        prompts=tuple(zip(indices, prompts, strict=True)),
        recached=tuple(recached),
    )


def _take(
    tensors: dict[str, NDArray[Any]], name: str, stored: StoredSnapshot, *, field: str
) -> NDArray[Any]:
    """Remove and return the latents [16, F, h, w] of this name, of any F."""
    latents = tensors.pop(name, None)
    h, w = stored.height // SPATIAL_STRIDE, stored.width // SPATIAL_STRIDE
    expected = (LATENT_CHANNELS, "F", h, w)
    if latents is None:
        raise wrong_field(field, f"must be {expected}; there is no tensor {name!r}")
    if latents.ndim != 4 or (latents.shape[0], *latents.shape[2:]) != (LATENT_CHANNELS, h, w):
        raise wrong_field(field, f"must be {expected}, not {latents.shape}")
    # A number that is not finite compares as false.
    if not bool((np.abs(as_float32(latents)) <= MAX_LATENT).all()):
        raise wrong_field(field, f"must be numbers within ±{MAX_LATENT:g}")
    return latents


def as_float32(latents: NDArray[Any]) -> NDArray[np.float32]:
    """Latents of either type as float32."""
    if latents.dtype == np.float32:
        return latents
    return (latents.astype(np.uint32) << 16).view(np.float32)


def _check_action(action: str, field: str) -> None:
    try:
        check_action(action)
    except LingbotError as exc:
        raise wrong_field(field, f"is not valid: {exc}") from exc


def _runs(chunks: Iterable[Sequence[str]]) -> list[Run]:
    frames = (action for actions in chunks for action in actions)
    return [(action, len(list(run))) for action, run in groupby(frames)]


def _chunks_of(runs: Iterable[Run], chunk: int) -> tuple[tuple[str, ...], ...]:
    """The actions of each chunk. Equal chunks are one object, so that a long run is small."""
    frames = [action for action, count in runs for _ in range(count)]
    known: dict[tuple[str, ...], tuple[str, ...]] = {}
    each = (tuple(frames[i : i + chunk]) for i in range(0, len(frames), chunk))
    return tuple(known.setdefault(actions, actions) for actions in each)
