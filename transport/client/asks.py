"""Events with an answer of their own, until it has arrived."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

from transport.wire.errors import TransportError
from transport.wire.messages import Error, Forked, Rewound, SnapshotMessage

Answer = SnapshotMessage | Forked | Rewound


def error_of(message: Error) -> TransportError:
    return TransportError(
        message.content,
        code=message.code,
        field=message.field,
        retry_after_s=message.retry_after_s,
    )


@dataclass(slots=True)
class Ask:
    kind: str
    payload: Any
    answer: asyncio.Future[Answer]


@dataclass(slots=True)
class Asks:
    """The events that no answer has come for, by id."""

    pending: dict[int, Ask] = field(default_factory=dict)
    _closed: Exception | None = None

    def add(self, event_id: int, kind: str, payload: Any) -> asyncio.Future[Answer]:
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self.pending[event_id] = Ask(kind, payload, answer)
        if self._closed is not None:
            self.fail(event_id, self._closed)
        return answer

    @property
    def turn(self) -> Ask | None:
        """The oldest one that turns the world back, or resets it."""
        turns = (ask for ask in self.pending.values() if ask.kind in ("rewind", "reset"))
        return next(turns, None)

    def remove(self, event_id: int) -> None:
        self.pending.pop(event_id, None)

    def answer(self, message: Answer) -> None:
        ask = self.pending.pop(message.event_id or 0, None)
        if ask is not None and not ask.answer.done():
            ask.answer.set_result(message)

    def fail(self, event_id: int, error: Exception) -> None:
        ask = self.pending.pop(event_id, None)
        if ask is not None and not ask.answer.done():
            ask.answer.set_exception(error)

    def note_loss(self) -> None:
        """The socket was lost. What may be asked twice is asked again on the next one."""
        for event_id, ask in list(self.pending.items()):
            if ask.kind == "rewind" and "seconds" in ask.payload:
                text = "the connection broke before the answer to `rewind`: the world may be back"
                self.fail(event_id, TransportError(text))

    def close(self, error: Exception) -> None:
        self._closed = error
        for event_id in list(self.pending):
            self.fail(event_id, error)
