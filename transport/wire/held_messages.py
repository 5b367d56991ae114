"""Messages behind a second init, while the world of the first is being opened."""

from dataclasses import dataclass, field

from transport.wire.errors import OutOfOrder

MAX_HELD_MESSAGES = 512


@dataclass(slots=True, kw_only=True)
class HeldMessages:
    """The messages, in the order of their arrival, within `max_bytes`."""

    max_bytes: int
    _messages: list[bytes | str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self._messages)

    def add(self, data: bytes | str) -> None:
        """Raises OutOfOrder for one too many."""
        num_bytes = len(data) + sum(map(len, self._messages))
        if len(self._messages) >= MAX_HELD_MESSAGES or num_bytes > self.max_bytes:
            raise OutOfOrder(
                f"too many messages behind a second init, expected at most {MAX_HELD_MESSAGES} "
                f"and {self.max_bytes} bytes",
                code="queue_full",
            )
        self._messages.append(data)

    def take(self) -> list[bytes | str]:
        """All messages, which are held no longer."""
        messages, self._messages = self._messages, []
        return messages
