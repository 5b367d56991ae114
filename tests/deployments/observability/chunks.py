"""Chunks and ends as a connection reports them."""

from transport.observer import SentChunk, SessionEnd


def sent(index=0, *, at=1.0, **fields):
    """A chunk of 12 frames at 16 fps, whose last byte was written `at`."""
    values = {
        "num_bytes": 100,
        "begun_s": at - 0.4,
        "denoised_s": at - 0.3,
        "decoded_s": at - 0.2,
        "encoded_s": at - 0.1,
        "first_byte_s": at - 0.1,
    }
    return SentChunk(index=index, num_frames=12, media_s=0.75, sent_s=at, **values | fields)


def ended(session_id="s1", label="done", **fields):
    return SessionEnd(
        **{"session_id": session_id, "label": label, "code": 1000, "reason": "", "duration_s": 1.0}
        | fields
    )
