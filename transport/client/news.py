"""News of a session, beside its chunks and answers.

Tested in `tests/transport/client/test_client.py`.
"""

from collections.abc import Callable
from dataclasses import dataclass

from msgspec import Struct

from transport.wire.messages import (
    Ending,
    Error,
    Moved,
    Paced,
    Paused,
    PauseReason,
    Queued,
    Resumed,
    Starting,
)


class Reconnecting(Struct, frozen=True):
    """The socket was lost. Another one is opened, within so many seconds."""

    reason: str
    within_s: float


class Reconnected(Struct, frozen=True):
    """The world goes on over another socket."""

    world_chunk_index: int  # of the next chunk
    num_lost_chunks: int  # generated before that, and never received


# An Error is of a refused event: the session goes on without it.
News = (
    Paused
    | Resumed
    | Paced
    | Ending
    | Moved
    | Reconnecting
    | Reconnected
    | Queued
    | Starting
    | Error
)
OnNews = Callable[[News], None]


@dataclass(slots=True)
class Status:
    """What the news so far amount to."""

    paused: PauseReason | None = None
    speed_percent: int = 100  # of real time
    ending: Ending | None = None  # the announced end; a resume takes back that of a pause

    def note(self, news: News) -> None:
        match news:
            case Paused(reason):
                self.paused = reason
            case Resumed():
                self.paused = None
                if self.ending is not None and self.ending.reason == "idle":
                    self.ending = None
            case Paced(speed_percent):
                self.speed_percent = speed_percent
            case Ending():
                self.ending = news


def describe(news: News) -> str:
    """One line about the wait for a world, or about its session."""
    match news:
        case Starting():
            return "a world is starting"
        case Queued(position, estimate_s=estimate_s):
            about = "" if estimate_s is None else f", about {estimate_s} s"
            return f"waiting for a world, number {position} in line{about}"
        case Paused(reason):
            return f"the session is paused: {reason}"
        case Resumed():
            return "the session goes on"
        case Paced(speed_percent):
            return f"the world runs at {speed_percent} % of real time"
        case Ending(reason, in_s):
            limit = "its pause" if reason == "idle" else "it"
            return f"the session ends in {in_s} s, because {limit} has lasted so long"
        case Error(content=content):
            return content
    return _describe_move(news)


def _describe_move(news: Moved | Reconnecting | Reconnected) -> str:
    match news:
        case Moved(world_chunk_index):
            return f"the world has moved, and goes on at chunk {world_chunk_index}"
        case Reconnecting(reason, within_s):
            return f"{reason}; connecting again, for at most {within_s:g} s"
        case Reconnected(world_chunk_index, num_lost_chunks):
            lost = f"; {num_lost_chunks} chunks before did not arrive" if num_lost_chunks else ""
            return f"connected again, the world goes on at chunk {world_chunk_index}{lost}"
