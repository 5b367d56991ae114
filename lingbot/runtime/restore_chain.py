"""Rank 0's side of one restoration: its parts in the queue, and the decoding between them.

Tested in `tests/lingbot/runtime/test_worker_restore.py`.
"""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lingbot.runtime.commands import CloseSession, Command, ContinueRestore, Opening, RestoreSession
from lingbot.runtime.restoring import Part

Frames = NDArray[np.uint8]


class RestoreChain:
    """Each part is queued once the part before it has been executed, and its chunks decoded."""

    def __init__(
        self,
        command: RestoreSession,
        *,
        submit: Callable[[Command], "Future[Any]"],
        decode: Callable[[str, Tensor], "Future[Frames]"],
    ) -> None:
        """`submit` queues a part; `decode` decodes a chunk of the session that is restored."""
        self.result: Future[Opening] = Future()
        self.result.set_running_or_notify_cancel()  # a part that runs cannot be called back
        self._command = command
        self._submit, self._decode = submit, decode
        self._last_frame: Frames | None = None
        self._queue(command)

    def _queue(self, command: RestoreSession | ContinueRestore) -> None:
        self._submit(command).add_done_callback(self._proceed)

    def _proceed(self, done: "Future[Part]") -> None:
        try:
            part = done.result()
        except BaseException as exc:
            self.result.set_exception(exc)
            return
        if part.is_last:
            self.result.set_result(Opening(self._command.snapshot.origin, self._last_frame))
        else:
            self._decode_all(deque(part.latents))

    def _decode_all(self, chunks: deque[Tensor]) -> None:
        """One after another, so that chunks of other sessions go between."""
        name = self._command.session_id
        if not chunks:
            self._queue(ContinueRestore(name))
            return

        def proceed(done: "Future[Frames]") -> None:
            try:
                self._last_frame = done.result()[-1]
            except BaseException as exc:
                self._submit(CloseSession(name))
                self.result.set_exception(exc)
            else:
                self._decode_all(chunks)

        self._decode(name, chunks.popleft()).add_done_callback(proceed)
