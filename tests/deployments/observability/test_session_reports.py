from deployments.observability.session_reports import SessionReports
from tests.deployments.observability.chunks import ended, sent
from transport.observer import client_of

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


def test_an_open_session_has_a_report_with_what_was_sent():
    reports = SessionReports(transport="t1")
    headers = {"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}
    client = reports.connected(client_of(headers, kind="stream", token="alice"), 0)
    client.asked(0)
    assert reports.get("s1") is None
    client.opened(1, "s1", width=32, height=16)
    assert reports.get("s1").sent_chunks == 0
    client.sent(sent())
    client.sent(sent(1))
    report = reports.get("s1")
    assert (report.transport, report.kind, report.token) == ("t1", "stream", "alice")
    assert report.trace_id == TRACE
    assert (report.sent_chunks, report.sent_frames, report.sent_bytes) == (2, 24, 200)
    client.closed(2, ended("s1"))
    assert reports.get("s1") is None


def test_a_client_without_a_world_leaves_no_report():
    reports = SessionReports(transport="t1")
    reports.connected(client_of({}, kind="stream"), 0).closed(1, ended(None, "busy"))
    assert reports._open == {}
