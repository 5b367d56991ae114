import logging

from transport.observer import SessionEnd, client_of
from transport.session_log import log_closed, log_opened

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
HEADERS = {"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}
CLIENT = client_of(HEADERS, kind="stream", token="alice")
END = SessionEnd(
    session_id="s1",
    label="client_left",
    code=1001,
    reason="the client left",
    duration_s=12.3456,
    num_chunks=3,
    num_frames=33,
    num_bytes=4567,
)


def test_two_lines_and_their_fields(caplog):
    caplog.set_level(logging.INFO, logger="transport.session_log")
    log_opened(CLIENT, "s1", width=32, height=16, output="raw")
    log_closed(CLIENT, END)
    opened, closed = caplog.records
    tail = f", token alice, trace {TRACE}"
    assert opened.getMessage() == "session s1 opened: 32x16 as raw" + tail
    assert closed.getMessage() == (
        "session s1 closed, 1001 the client left: 3 chunks, 33 frames, 4567 bytes in 12.3 s" + tail
    )
    assert opened.fields == {
        "event": "session_opened",
        "session_id": "s1",
        "width": 32,
        "height": 16,
        "output": "raw",
        "kind": "stream",
        "token": "alice",
        "trace_id": TRACE,
    }
    assert closed.fields == {
        "event": "session_closed",
        "session_id": "s1",
        "label": "client_left",
        "code": 1001,
        "reason": "the client left",
        "duration_s": 12.346,
        "chunks": 3,
        "frames": 33,
        "bytes": 4567,
        "kind": "stream",
        "token": "alice",
        "trace_id": TRACE,
    }


def test_a_client_without_token_and_trace_has_a_short_line(caplog):
    caplog.set_level(logging.INFO, logger="transport.session_log")
    log_opened(client_of({}, kind="clip"), "s1", width=32, height=16, output="a clip")
    assert caplog.records[0].getMessage() == "session s1 opened: 32x16 as a clip"
