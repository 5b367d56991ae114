"""What a client asks of its whole world: to save it, to fork it, to turn it back, to begin anew.

Commands wait here until no chunk is being generated. A world that has not changed is saved or
forked at most once a second, because a snapshot is as large as seconds of frames.

Pure: time is an argument, in seconds of any steady clock.
"""

import math
from collections import deque
from dataclasses import dataclass, field
from typing import Annotated

from msgspec import Meta, Raw, Struct

from transport.wire.decoding import decode_known, is_absent
from transport.wire.errors import BadMessage, OutOfOrder
from transport.wire.messages import MAX_PROMPT_CHARS, Seed

MAX_WAITING_COMMANDS = 8
MAX_REWIND_S = 86_400
UNCHANGED_PERIOD_S = 1.0  # between two snapshots of a world without a new chunk
WORLD_KINDS = ("save", "fork", "rewind", "reset")  # of events


class SaveWorld(Struct, frozen=True):
    """The world as it is now is wanted in one piece."""


class ForkWorld(Struct, frozen=True):
    """A token of the world as it is now is wanted."""


class RewindWorld(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The payload of `rewind`: how far the world is turned back. One of the two is given."""

    # In the world, of the next chunk.
    chunk_index: Annotated[int, Meta(ge=0, le=2**63 - 1)] | None = None
    # Of media. It goes back no further than the history.
    seconds: Annotated[float, Meta(gt=0, le=MAX_REWIND_S)] | None = None


class ResetWorld(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The payload of `reset`: the world begins anew, with what is given here changed."""

    seed: Seed | None = None
    prompt: Annotated[str, Meta(min_length=1, max_length=MAX_PROMPT_CHARS)] | None = None


WorldEvent = SaveWorld | ForkWorld | RewindWorld | ResetWorld


class WorldCommand(Struct, frozen=True):
    """An event that concerns the whole world."""

    event: WorldEvent
    event_id: int | None
    course: int  # of the controls that follow it


def read_world_event(kind: str, payload: Raw, *, field: str) -> WorldEvent:
    """The event of a kind of WORLD_KINDS. Raises BadMessage with the path below `field`."""
    match kind:
        case "save":
            return SaveWorld()
        case "fork":
            return ForkWorld()
        case "rewind":
            return _read_rewind(payload, field=field)
        case _:
            if is_absent(payload):
                return ResetWorld()
            return decode_known(payload, ResetWorld, field=field)


def _read_rewind(payload: Raw, *, field: str) -> RewindWorld:
    event = decode_known(payload, RewindWorld, field=field)
    if (event.chunk_index is None) == (event.seconds is None):
        raise BadMessage(
            f"`{field}`: expected `chunk_index` or `seconds`, one of them", field=field
        )
    return event


@dataclass(slots=True, kw_only=True)
class CommandQueue:
    """The commands of one session, in the order of their arrival."""

    _waiting: deque[WorldCommand] = field(default_factory=deque)
    _saved_s: float = -math.inf  # when the world was saved or forked last
    _has_changed: bool = True  # since then

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, command: WorldCommand) -> None:
        """Raises OutOfOrder if too many wait."""
        if len(self._waiting) >= MAX_WAITING_COMMANDS:
            raise OutOfOrder(
                f"too many commands wait for the world, expected at most {MAX_WAITING_COMMANDS}",
                code="queue_full",
                field="kind",
            )
        self._waiting.append(command)

    def note_chunk(self) -> None:
        """The world has gone on by a chunk."""
        self._has_changed = True

    def wait_s(self, now_s: float) -> float:
        """Seconds until the next command may be carried out; infinite if none waits."""
        if not self._waiting:
            return math.inf
        if self._has_changed or _changes(self._waiting[0]):
            return 0.0
        return max(0.0, self._saved_s + UNCHANGED_PERIOD_S - now_s)

    def take(self, now_s: float) -> WorldCommand | None:
        """The next command, or None if none may be carried out now."""
        if self.wait_s(now_s) > 0:
            return None
        command = self._waiting.popleft()
        self._has_changed = _changes(command)
        if not self._has_changed:
            self._saved_s = now_s
        return command


def _changes(command: WorldCommand) -> bool:
    """Returns True for a command after which the world is another one."""
    return isinstance(command.event, RewindWorld | ResetWorld)
