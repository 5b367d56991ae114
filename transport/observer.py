"""The server's reports about its clients. `deployments` turns it into metrics and traces.

Times are seconds of the event loop's clock. Tested in `tests/transport/test_observer.py`.
"""

from collections.abc import Mapping
from typing import Literal, Protocol

from msgspec import Struct

from transport.wire.messages import Queued, Starting
from transport.wire.traceparent import TraceParent, parse_traceparent

Kind = Literal["stream", "clip"]
State = Literal["active", "paused"]

TOKEN_KEY = "lingbot.token"  # in an ASGI scope: the name of the accepted token


class Client(Struct, frozen=True, kw_only=True):
    """A socket, or the request for one clip."""

    kind: Kind = "stream"
    trace: TraceParent | None = None  # of the client's `traceparent` header
    token: str | None = None  # the name of its token

    @property
    def trace_id(self) -> str | None:
        return None if self.trace is None else self.trace.trace_id


def client_of(headers: Mapping[str, str], *, kind: Kind, token: str | None = None) -> Client:
    """The client of a handshake or request with these headers, whose names are in lower case."""
    return Client(kind=kind, trace=parse_traceparent(headers.get("traceparent")), token=token)


class SentChunk(Struct, frozen=True, kw_only=True):
    """One chunk, from its turn to its last byte."""

    index: int
    num_frames: int
    num_bytes: int  # on the wire
    media_s: float  # for how long it plays
    begun_s: float  # its step was called
    denoised_s: float
    decoded_s: float  # its frames were there, and sending had begun to wait for them
    encoded_s: float  # sending had its last payload
    first_byte_s: float  # its first byte was written
    sent_s: float  # its last byte was written
    stall_s: float = 0.0  # the client had nothing left to show for so long
    dropped_frames: int = 0  # of the session so far
    event_s: float | None = None  # when the oldest keys arrived that take effect in it


class SessionEnd(Struct, frozen=True, kw_only=True):
    """How a client's connection or request ended."""

    session_id: str | None  # None: it got no world
    # One of few words: an error's code, `done`, `client_left`, `handed_over` or `cancelled`.
    label: str
    code: int  # the close code of a socket, the HTTP status of a clip
    reason: str
    duration_s: float
    num_chunks: int = 0
    num_frames: int = 0
    num_bytes: int = 0


class SessionObserver(Protocol):
    """Follows one client. Every call returns at once, and raises nothing."""

    def asked(self, now_s: float) -> None:
        """The client's request is valid, and a world is wanted."""
        ...

    def waits(self, status: Queued | Starting) -> None:
        """The client has no world yet. Called about twice a second."""
        ...

    def opened(self, now_s: float, session_id: str, *, width: int, height: int) -> None: ...

    def moved(self, state: State) -> None:
        """The session was paused or resumed."""
        ...

    def sent(self, chunk: SentChunk) -> None: ...

    def closed(self, now_s: float, end: SessionEnd) -> None:
        """Called once, and last, whether a world was opened or not."""
        ...


class Observer(Protocol):
    """Follows all clients of this process."""

    def connected(self, client: Client, now_s: float) -> SessionObserver: ...

    def lagged(self, lag_s: float) -> None:
        """A timer of the event loop was late by `lag_s`. Called 50 times a second."""
        ...


class NoObserver:
    """Reports nothing. It is an `Observer` and a `SessionObserver`."""

    def connected(self, client: Client, now_s: float) -> "NoObserver":
        return self

    def lagged(self, lag_s: float) -> None: ...

    def asked(self, now_s: float) -> None: ...

    def waits(self, status: Queued | Starting) -> None: ...

    def opened(self, now_s: float, session_id: str, *, width: int, height: int) -> None: ...

    def moved(self, state: State) -> None: ...

    def sent(self, chunk: SentChunk) -> None: ...

    def closed(self, now_s: float, end: SessionEnd) -> None: ...
