"""The header `traceparent` of W3C Trace Context, by which a client's trace continues here."""

import re

from msgspec import Struct

_FORMAT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")


class TraceParent(Struct, frozen=True):
    """The client's span, in lower-case hexadecimal digits."""

    trace_id: str  # 32 digits
    span_id: str  # 16 digits
    is_sampled: bool


def parse_traceparent(text: str | None) -> TraceParent | None:
    """The header's content; None without a header, or for one that the standard calls invalid."""
    found = _FORMAT.fullmatch(text or "")
    if found is None:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    # Later versions may add fields; `ff` is not a version, and ids of zeros are not ids.
    if version == "ff" or (version == "00" and more) or not int(trace_id, 16) * int(span_id, 16):
        return None
    return TraceParent(trace_id, span_id, bool(int(flags, 16) & 1))
