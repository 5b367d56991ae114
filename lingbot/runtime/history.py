"""The past of one world, chunk by chunk, within a bound of bytes. Imports no torch."""

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

from msgspec.structs import replace
from numpy.typing import NDArray

from lingbot.errors import LingbotError
from lingbot.runtime.snapshot import (
    MAX_JOURNAL_CHARS,
    MAX_JOURNAL_FRAMES,
    Journal,
    KeptChunk,
    Origin,
    Snapshot,
)
from lingbot.runtime.snapshot_check import pitch_after


class History:
    """Keeps the latents of the sink, and of the latest chunks; all actions and prompts.

    The actions and prompts are forgotten once a world is too old for a journal. It goes on without:
    only exact replay needs them.
    """

    def __init__(
        self, origin: Origin, *, prompt: str, budget_bytes: int, num_more: int = 0
    ) -> None:
        """`budget_bytes` bounds the latents. A snapshot of the newest chunk is always possible.

        It may have `num_more` chunks beside those that it needs.
        """
        self.origin = origin
        self.next_chunk = 0
        self.prompt = prompt  # of the newest chunk
        self.pitch = 0  # after the newest chunk, in degrees
        self._first_prompt = prompt
        self._budget_bytes = budget_bytes
        self._num_more = num_more
        self._num_bytes = 0
        self._sink: list[KeptChunk] = []
        self._recent: deque[KeptChunk] = deque()  # without gaps, up to the newest
        self._recaches: list[tuple[int, str]] = []  # since this history began
        self._journal: _Journal | None = _Journal(prompt)

    @classmethod
    def of(cls, snapshot: Snapshot, *, budget_bytes: int) -> "History":
        """The history of a world that goes on from a snapshot, without keeping its file."""
        origin = replace(snapshot.origin, condition=_owned(snapshot.origin.condition))
        history = cls(origin, prompt=snapshot.prompt, budget_bytes=budget_bytes)
        history.next_chunk, history.pitch = snapshot.next_chunk, snapshot.pitch
        for chunk in snapshot.chunks:
            history._append(replace(chunk, latents=_owned(chunk.latents)))
        journal = snapshot.journal
        history._journal = None if journal is None else _Journal.of(journal)
        if journal is not None:
            history._first_prompt = journal.prompts[0][1]
        elif snapshot.chunks:
            history._first_prompt = snapshot.chunks[0].prompt
        return history

    @property
    def earliest(self) -> int:
        """The first index to which the world can be turned back; the chunks from there go."""
        first = self._recent[0].index if self._recent else self.next_chunk
        if first <= len(self._sink):
            return 0
        return min(first + self.origin.kept_chunks, self.next_chunk)

    @property
    def newest(self) -> NDArray[Any]:
        """The latents of the newest chunk, [16, F, h, w]. There must be one."""
        return (self._recent or self._sink)[-1].latents

    def append(
        self,
        latents: NDArray[Any],
        actions: Sequence[str],
        prompt: str | None,
        *,
        recache: bool = False,
    ) -> None:
        """The next chunk, of whose latents a copy is kept.

        `prompt`: a new one from this chunk on, or None. `recache`: the window was rebuilt under it.
        """
        index, held = self.next_chunk, tuple(actions)
        if prompt is not None:
            self.prompt = prompt
            if recache:
                self._recaches.append((index, prompt))
        self._append(
            KeptChunk(
                index=index,
                latents=latents.copy(),
                actions=held,
                pitch=self.pitch,
                prompt=self.prompt,
            )
        )
        self.pitch = pitch_after(self.pitch, held, is_first=index == 0)
        self.next_chunk += 1
        if self._journal is not None and not self._journal.append(
            index, held, prompt, recache=recache
        ):
            self._journal = None
        while self._num_bytes > self._budget_bytes and self._can_forget():
            self._num_bytes -= self._recent.popleft().latents.nbytes
        # No snapshot is of an earlier chunk, and each one needs the last recache before it.
        while len(self._recaches) > 1 and self._recaches[1][0] < self.earliest:
            del self._recaches[0]

    def snapshot(self, next_chunk: int | None = None, *, num_more: int = 0) -> Snapshot:
        """The world before this chunk; None: before the next one.

        It has `num_more` chunks beside those that it needs, as far as they are kept.

        Raises LingbotError, field `chunk_index`, for one that is not in the history.
        """
        at = self.next_chunk if next_chunk is None else next_chunk
        self._check(at)
        following = next((chunk for chunk in self._kept() if chunk.index == at), None)
        first = at - self.origin.kept_chunks - num_more
        recache = max((one for one in self._recaches if one[0] < at), default=(0, ""))
        chunks = tuple(
            replace(chunk, prompt=recache[1]) if chunk.index < recache[0] else chunk
            for chunk in self._kept()
            if chunk.index < at and (chunk.index < len(self._sink) or chunk.index >= first)
        )
        return Snapshot(
            origin=self.origin,
            next_chunk=at,
            pitch=self.pitch if following is None else following.pitch,
            prompt=self._prompt_before(at),
            chunks=chunks,
            journal=None if self._journal is None else self._journal.before(at),
        )

    def rewind(self, next_chunk: int) -> None:
        """Forget this chunk and all later ones. Raises as `snapshot` does."""
        self._check(next_chunk)
        self.prompt = self._prompt_before(next_chunk)
        while self.next_chunk > next_chunk:
            chunk = (self._recent or self._sink).pop()
            self._num_bytes -= chunk.latents.nbytes
            self.pitch = chunk.pitch
            self.next_chunk -= 1
        self._recaches = [one for one in self._recaches if one[0] < next_chunk]
        if self._journal is not None:
            self._journal.cut(next_chunk)

    def _check(self, next_chunk: int) -> None:
        if not self.earliest <= next_chunk <= self.next_chunk:
            raise LingbotError(
                f"chunk_index must be {self.earliest}..{self.next_chunk}, not {next_chunk}",
                field="chunk_index",
            )

    def _kept(self) -> Iterator[KeptChunk]:
        yield from self._sink
        yield from self._recent

    def _append(self, chunk: KeptChunk) -> None:
        is_sink = chunk.index < self.origin.sink_chunks
        (self._sink if is_sink else self._recent).append(chunk)
        self._num_bytes += chunk.latents.nbytes

    def _can_forget(self) -> bool:
        return len(self._recent) > self.origin.kept_chunks + self._num_more

    def _prompt_before(self, next_chunk: int) -> str:
        """The prompt of the chunk before this one, or that of the world's beginning."""
        if next_chunk == self.next_chunk:
            return self.prompt
        before = (chunk.prompt for chunk in self._kept() if chunk.index == next_chunk - 1)
        return next(before, self._first_prompt)


def _owned(latents: NDArray[Any]) -> NDArray[Any]:
    """A copy of a view: that of a decoded snapshot would keep the client's whole file."""
    return latents if latents.base is None else latents.copy()


class _Journal:
    """A journal that grows."""

    def __init__(self, prompt: str) -> None:
        self._actions: list[tuple[str, ...]] = []
        self._prompts = [(0, prompt)]
        self._recached: list[int] = []
        self._num_chars = len(prompt)

    @classmethod
    def of(cls, journal: Journal) -> "_Journal":
        grown = cls("")
        grown._actions, grown._recached = list(journal.actions), list(journal.recached)
        grown._prompts = list(journal.prompts)
        grown._num_chars = sum(len(prompt) for _, prompt in journal.prompts)
        return grown

    def append(
        self, index: int, actions: tuple[str, ...], prompt: str | None, *, recache: bool
    ) -> bool:
        """False if the journal has become too long."""
        same = self._actions and self._actions[-1] == actions
        self._actions.append(self._actions[-1] if same else actions)  # a held key takes no memory
        if prompt is not None:
            self._prompts.append((index, prompt))
            self._num_chars += len(prompt)
            if recache:
                self._recached.append(index)
        num_frames = len(self._actions) * len(actions)
        return num_frames <= MAX_JOURNAL_FRAMES and self._num_chars <= MAX_JOURNAL_CHARS

    def before(self, next_chunk: int) -> Journal:
        first, *later = self._prompts
        return Journal(
            actions=tuple(self._actions[:next_chunk]),
            prompts=(first, *(one for one in later if one[0] < next_chunk)),
            recached=tuple(index for index in self._recached if index < next_chunk),
        )

    def cut(self, next_chunk: int) -> None:
        journal = self.before(next_chunk)
        self._actions, self._recached = list(journal.actions), list(journal.recached)
        self._prompts = list(journal.prompts)
        self._num_chars = sum(len(prompt) for _, prompt in self._prompts)
