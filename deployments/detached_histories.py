"""The histories of sessions whose sockets were lost, until other sockets resume them here."""

import asyncio
from collections.abc import Callable

import numpy as np

from lingbot.runtime.history import History
from lingbot.runtime.snapshot import Snapshot


class DetachedHistories:
    """Those of one process. A rank hands over the last chunks of a world, and these have more."""

    def __init__(self, *, ttl_s: float, num_free: Callable[[], int]) -> None:
        """A history is kept for `ttl_s`, and at most `num_free()` of them, the newest ones."""
        self._ttl_s = ttl_s
        self._num_free = num_free
        self._kept: dict[str, tuple[History, asyncio.TimerHandle]] = {}  # by token, oldest first

    def keep(self, token: str, history: History) -> None:
        self._drop(token)
        expiry = asyncio.get_running_loop().call_later(self._ttl_s, self._drop, token)
        self._kept[token] = history, expiry
        self.make_room()

    def take(self, token: str, snapshot: Snapshot) -> History | None:
        """The history of the world that is handed over, which is kept no more. None without one."""
        history = self._drop(token)
        return history if history is not None and catch_up(history, snapshot) else None

    def make_room(self) -> None:
        """Drop the oldest histories for which there is no room any more."""
        while len(self._kept) > max(0, self._num_free()):
            self._drop(next(iter(self._kept)))

    def _drop(self, token: str) -> History | None:
        if token not in self._kept:
            return None
        history, expiry = self._kept.pop(token)
        expiry.cancel()
        return history


def catch_up(history: History, snapshot: Snapshot) -> bool:
    """Add the chunks of the snapshot that are new to the history.

    Returns False, and adds none, where the snapshot does not go on from the newest chunk of the
    history: the world may have gone on, or been turned back, over a socket of another process.
    """
    chunks = {chunk.index: chunk for chunk in snapshot.chunks}
    same = chunks.get(history.next_chunk - 1)
    new = range(history.next_chunk, snapshot.next_chunk)
    journal = snapshot.journal
    if same is None or not np.array_equal(same.latents, history.newest):
        return False
    if new and (journal is None or not all(index in chunks for index in new)):
        return False
    prompts = {} if journal is None else dict(journal.prompts)
    for index in new:
        recache = journal is not None and index in journal.recached
        added = chunks[index]
        history.append(added.latents, added.actions, prompts.get(index), recache=recache)
    return True
