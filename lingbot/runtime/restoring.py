"""A session that is rebuilt from a snapshot, part by part, so that other sessions go between.

The window's keys and values are computed anew from the clean latents of the kept chunks, one pass
a chunk. Exact replay generates every chunk anew instead.
"""

from collections import deque
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lingbot.camera.motion import Trajectory
from lingbot.dit.attention import use_backend
from lingbot.dit.kv_cache import frames_moved_back
from lingbot.errors import LingbotError
from lingbot.runtime.history import History
from lingbot.runtime.latents import unpack
from lingbot.runtime.session import Session
from lingbot.runtime.session_check import check_context
from lingbot.runtime.snapshot import DECODED_CHUNKS, Journal, KeptChunk, Snapshot, needed_prompts
from lingbot.runtime.snapshot_check import check_snapshot
from lingbot.vae.condition import with_mask
from lingbot.vae.protocol import ImageCondition

if TYPE_CHECKING:  # whose `begin_restore` makes a Restoration
    from lingbot.runtime.engine import Engine

Contexts = Mapping[str, NDArray[np.float32]]  # [L, text_dim] by prompt


class Part(NamedTuple):
    """The result of a part of a restoration."""

    latents: tuple[Tensor, ...] = ()  # chunks to decode in this order, [1, 16, F, h, w] each
    is_last: bool = False  # the session may be stepped


class Restoration:
    """A session on its way back. All ranks advance it alike."""

    def __init__(
        self, engine: "Engine", snapshot: Snapshot, contexts: Contexts, *, exact: bool
    ) -> None:
        """The arguments of `Engine.begin_restore`, which must have been checked."""
        self._engine = engine
        self._snapshot = snapshot
        self._contexts = contexts
        self._kept = deque(snapshot.chunks)  # whose keys and values the window does not have yet
        self._replay: Iterator[ReplayedChunk] | None = None
        self._prompt = snapshot.prompt  # of the session's keys and values
        if exact and snapshot.journal is not None:
            self._replay = replayed_chunks(snapshot.journal)
            self._prompt = snapshot.journal.prompts[0][1]
        condition = with_mask(unpack(snapshot.origin.condition, engine.device))
        chunks = ImageCondition(condition.split(engine.config.chunk, dim=2))
        self.session = engine.new_session(snapshot.origin, chunks, prompt=self._prompt)
        self.session.text = engine.embed_context(contexts.get(self._prompt))

    @torch.inference_mode()
    def advance(self) -> Part:
        """The next part, which takes about as long as a chunk. It has ended when this returns.

        The part's latents must be decoded before the next part.
        """
        part = self._advance()
        if self._engine.device.type == "cuda":
            torch.cuda.current_stream(self._engine.device).synchronize()
        return part

    def _advance(self) -> Part:
        if self._replay is not None:
            return self._generate(self._replay)
        if self._kept:
            return self._rebuild()
        if self.session.next_chunk == self._snapshot.next_chunk:
            return Part(is_last=True)
        self._tell(self._snapshot.prompt)
        go_on_after(self._engine, self.session, self._snapshot)
        self.session.history = History.of(self._snapshot, budget_bytes=0)
        decoded = last_in_a_row(self._snapshot)
        return Part(tuple(unpack(chunk.latents, self._engine.device) for chunk in decoded))

    def _rebuild(self) -> Part:
        """One pass for each of so many chunks as a chunk has denoising steps."""
        for _ in range(min(len(self.session.steps), len(self._kept))):
            kept = self._kept.popleft()
            self._tell(kept.prompt)
            remember(self._engine, self.session, kept, num_chunks=self._snapshot.next_chunk)
        return Part()

    def _generate(self, replay: "Iterator[ReplayedChunk]") -> Part:
        chunk = next(replay, None)
        if chunk is None:
            return Part(is_last=True)
        latents = self._engine.denoise(
            self.session,
            chunk.actions,
            context=None if chunk.prompt is None else self._context_of(chunk.prompt),
            prompt=chunk.prompt,
            recache=chunk.recache,
        )
        return Part((latents,))

    def _tell(self, prompt: str) -> None:
        """Give the session a prompt, if it has another one."""
        if prompt != self._prompt:
            self.session.text = self._engine.embed_context(self._context_of(prompt))
            self._prompt = prompt

    def _context_of(self, prompt: str) -> NDArray[np.float32]:
        none = np.zeros((0, self._engine.model.config.text_dim), np.float32)
        return self._contexts.get(prompt, none)


def check_restore(
    engine: "Engine", snapshot: Snapshot, contexts: Contexts, *, exact: bool = False
) -> None:
    """Raise what `Engine.begin_restore` raises."""
    check_snapshot(snapshot, engine.config, fingerprint=engine.fingerprint)
    if exact and snapshot.journal is None:
        raise LingbotError("snapshot.journal is missing: the world is too old", field="exact")
    for prompt in needed_prompts(snapshot, exact=exact):
        if prompt in contexts:
            check_context(contexts[prompt], engine.model.config)
        elif prompt:
            raise LingbotError(f"no context of the prompt {prompt[:80]!r}", field="contexts")


def recache_window(engine: "Engine", session: Session) -> None:
    """Rebuild a session's window under its present prompt, one pass a chunk."""
    past = session.history.snapshot()
    session.window.num_frames = 0
    for kept in past.chunks:
        remember(engine, session, kept, num_chunks=past.next_chunk)
    go_on_after(engine, session, past)


def remember(engine: "Engine", session: Session, kept: KeptChunk, *, num_chunks: int) -> None:
    """Append the keys and values of a past chunk to a window that is rebuilt.

    `num_chunks` is the length of the world's past. The slots are filled without gaps. The positions
    are those that the chunk has in a window that was never rebuilt.
    """
    window, chunk = session.window, engine.config.chunk
    session.next_chunk = kept.index
    session.trajectory = Trajectory(kept.pitch, started=kept.index > 0)
    is_sink = kept.index < session.origin.sink_chunks
    turned = 0 if is_sink else moved_back_after(engine, session, num_chunks)
    window.moved_back = window.num_frames + turned - kept.index * chunk
    with engine.chunk_inputs(session, kept.actions) as inputs, use_backend(engine.attention):
        engine.model.write_cache(unpack(kept.latents, engine.device), inputs)
    window.advance(chunk)


def go_on_after(engine: "Engine", session: Session, past: Snapshot) -> None:
    """Put a session whose window has been rebuilt after the last chunk of its past."""
    num_chunks, window = past.next_chunk, session.window
    turned = moved_back_after(engine, session, num_chunks)
    window.moved_back = window.num_frames + turned - num_chunks * engine.config.chunk
    session.next_chunk = num_chunks
    session.trajectory = Trajectory(past.pitch, started=num_chunks > 0)


def moved_back_after(engine: "Engine", session: Session, num_chunks: int) -> int:
    """`frames_moved_back` of a session's window."""
    config = engine.config
    return frames_moved_back(
        num_chunks,
        chunk=config.chunk,
        window=session.origin.window,
        max_positions=config.max_positions,
    )


def last_in_a_row(snapshot: Snapshot) -> tuple[KeptChunk, ...]:
    """The last chunks that follow one another, from which the decoder's state comes."""
    chunks = snapshot.chunks[-DECODED_CHUNKS:]
    gaps = [place + 1 for place, (a, b) in enumerate(pairwise(chunks)) if b.index != a.index + 1]
    return chunks[max(gaps, default=0) :]


class ReplayedChunk(NamedTuple):
    """One chunk of a journal."""

    actions: tuple[str, ...]
    prompt: str | None  # a new one, or None
    recache: bool


def replayed_chunks(journal: Journal) -> "Iterator[ReplayedChunk]":
    """The chunks of a journal, in order."""
    prompts = dict(journal.prompts[1:])  # the first is the world's, before its first chunk
    recached = set(journal.recached)
    for index, actions in enumerate(journal.actions):
        yield ReplayedChunk(actions, prompts.get(index), index in recached)
