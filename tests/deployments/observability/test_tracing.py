"""Spans, in memory and at a collector over HTTP."""

import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from deployments.observability import tracing
from deployments.observability.tracing import Tracing, check_tracing, create_provider
from deployments.schema_keys import ConfigError
from tests.deployments.observability.chunks import ended, sent
from transport.observer import client_of

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def follow(provider, *, traceparent=None, chunks=1, **end):
    """One client, on a clock that reads 100 s when its socket opens."""
    headers = {} if traceparent is None else {"traceparent": traceparent}
    client = Tracing(provider).connected(client_of(headers, kind="stream", token="alice"), 100.0)
    client.asked(101.0)
    client.opened(103.0, "s1", width=32, height=16)
    for index in range(chunks):
        client.sent(sent(index, at=104.0 + index))
    client.closed(110.0, ended(**end))


@pytest.fixture
def memory():
    """A provider, and a call that returns the spans which it has exported, by name."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))

    def spans():
        return {span.name: span for span in exporter.get_finished_spans()}

    yield provider, spans
    provider.shutdown()


def seconds(span):
    return (span.end_time - span.start_time) / 1e9


def test_a_session_and_its_parts_continue_the_client_s_trace(memory):
    provider, spans = memory
    follow(provider, traceparent=f"00-{TRACE}-{SPAN}-01")
    found = spans()
    assert found.keys() == {"session", "open", "step", "decode", "encode", "send"}
    session = found.pop("session")
    assert session.parent.span_id == int(SPAN, 16) and session.parent.is_remote
    assert session.kind is SpanKind.SERVER
    for span in (session, *found.values()):
        assert span.context.trace_id == int(TRACE, 16)
    for span in found.values():
        assert span.parent.span_id == session.context.span_id


def test_spans_have_the_times_of_the_parts(memory):
    provider, spans = memory
    before_ns = time.time_ns()
    follow(provider)
    found = spans()
    assert before_ns <= found["session"].start_time <= time.time_ns()
    assert seconds(found["session"]) == pytest.approx(10)
    begins = found["session"].start_time
    times = {name: ((s.start_time - begins) / 1e9, seconds(s)) for name, s in found.items()}
    assert times["open"] == pytest.approx((1, 2))
    assert times["step"] == pytest.approx((3.6, 0.1))
    assert times["decode"] == pytest.approx((3.7, 0.1))
    assert times["encode"] == pytest.approx((3.8, 0.1))
    assert times["send"] == pytest.approx((3.9, 0.1))


def test_a_session_describes_itself_and_its_end(memory):
    provider, spans = memory
    follow(provider, label="world_lost", reason="a rank died", num_chunks=1)
    session = spans()["session"]
    assert dict(session.attributes) == {
        "lingbot.kind": "stream",
        "lingbot.token": "alice",
        "lingbot.session_id": "s1",
        "lingbot.size": "32x16",
        "lingbot.end": "world_lost",
        "lingbot.num_chunks": 1,
    }
    assert session.status.status_code is StatusCode.ERROR
    assert session.status.description == "a rank died"
    assert spans()["step"].attributes["lingbot.chunk"] == 0


def test_a_client_that_leaves_is_no_error(memory):
    provider, spans = memory
    follow(provider, label="client_left")
    assert spans()["session"].status.status_code is StatusCode.UNSET


def test_a_client_without_a_trace_begins_one(memory):
    provider, spans = memory
    follow(provider)
    assert spans()["session"].parent is None
    assert spans()["send"].context.trace_id == spans()["session"].context.trace_id


def test_a_client_that_is_not_sampled_leaves_no_spans(memory):
    provider, spans = memory
    follow(provider, traceparent=f"00-{TRACE}-{SPAN}-00")
    assert spans() == {}


@contextmanager
def collector():
    """An OTLP collector: its address, and the spans and resources that it has received."""
    spans, resources = [], []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            assert self.path == "/v1/traces", self.path
            request = ExportTraceServiceRequest.FromString(body)
            for resource in request.resource_spans:
                resources.extend(resource.resource.attributes)
                for scope in resource.scope_spans:
                    spans.extend(scope.spans)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", spans, resources
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("slash", ["", "/"])
def test_a_collector_receives_the_spans_over_http(slash, monkeypatch):
    monkeypatch.setattr(tracing, "EXPORT_TIMEOUT_S", 60.0)
    with collector() as (address, spans, resources):
        provider = create_provider(address + slash, instance="t1")
        follow(provider, traceparent=f"00-{TRACE}-{SPAN}-01", chunks=2)
        provider.shutdown()
    names = sorted(span.name for span in spans)
    parts = ["decode", "encode", "send", "step"]
    assert names == sorted(["session", "open", *parts, *parts])
    assert {span.trace_id.hex() for span in spans} == {TRACE}
    values = {attribute.key: attribute.value.string_value for attribute in resources}
    assert (values["service.name"], values["service.instance.id"]) == ("lingbot", "t1")


def test_a_collector_that_is_absent_delays_no_chunk(monkeypatch):
    monkeypatch.setattr(tracing, "EXPORT_TIMEOUT_S", 0.1)
    threads, has_begun = set(), threading.Event()
    export = OTLPSpanExporter.export

    def note_thread(self, spans):
        threads.add(threading.current_thread())
        has_begun.set()
        return export(self, spans)

    monkeypatch.setattr(OTLPSpanExporter, "export", note_thread)
    provider = create_provider("http://127.0.0.1:9", instance="t1")
    follow(provider, chunks=500)
    assert has_begun.wait(30) and threading.current_thread() not in threads
    provider.shutdown()


def test_without_the_packages_the_config_is_refused(monkeypatch):
    monkeypatch.setattr(tracing, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"^args\.otlp_endpoint: .* the extra \[tracing\]"):
        check_tracing()
    with pytest.raises(ConfigError, match=r"lingbot-serve\[tracing\]"):
        create_provider("http://127.0.0.1:9", instance="t1")


def test_without_an_endpoint_no_exporter_is_imported():
    code = (
        "import sys, deployments.transport; "
        "print([name for name in sys.modules if name.startswith('opentelemetry.exporter.otlp')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
