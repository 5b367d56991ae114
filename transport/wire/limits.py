"""Limits on one client. They are configuration keys, so an unknown key is an error."""

from typing import Annotated

from msgspec import Meta, Struct

# Serve's proxy accepts so much. For a larger message it closes the socket without an error.
MAX_MESSAGE_BYTES = 32 * 1024 * 1024

NumBytes = Annotated[int, Meta(ge=1024)]
Seconds = Annotated[float, Meta(gt=0)]


class ClientLimits(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    # On one replica. It must be below Serve's max_ongoing_requests, at which handshakes hang.
    max_sockets: Annotated[int, Meta(ge=1)] = 150
    max_init_bytes: Annotated[NumBytes, Meta(le=MAX_MESSAGE_BYTES)] = 16 * 1024 * 1024
    max_event_bytes: NumBytes = 64 * 1024
    max_errors: Annotated[int, Meta(ge=0)] = 100  # invalid messages on one socket in a minute
    init_timeout_s: Seconds = 30.0  # for all inits of a socket together
    ack_timeout_s: Seconds = 60.0  # to acknowledge a chunk, and to accept any message
    max_clip_bytes: NumBytes = 24 * 1024 * 1024  # of a request; base64 of 16 MiB is 21.4 MiB
    max_clip_latent_frames: Annotated[int, Meta(ge=1)] = 240
    # A session without keys and events for so long is paused; None: it never is
    idle_after_s: Seconds | None = None
    max_paused_s: Seconds | None = None  # a session that is paused for longer is ended
    max_session_s: Seconds | None = None  # a session that is open for longer is ended
