"""OpenTelemetry spans of each client: `session`, and in it open, step, decode, encode and send.

A client's `traceparent` is the parent of its `session`, and decides whether it is sampled. Spans
are built from times that were taken anyway, once a chunk is sent. This module imports nothing of
OpenTelemetry before a provider is created.

Tested in `tests/deployments/observability/test_tracing.py`.
"""

import time
from importlib.util import find_spec
from typing import TYPE_CHECKING

from deployments.schema_keys import ConfigError
from transport.observer import Client, SentChunk, SessionEnd, State
from transport.wire.messages import Queued, Starting

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Tracer

EXPORT_PERIOD_S = 1.0  # a process that ends loses the spans of so long
EXPORT_TIMEOUT_S = 5.0  # then a batch is lost


def check_tracing(key: str = "args.otlp_endpoint") -> None:
    """Raise ConfigError, with the config's key, if the extra's packages are not installed."""
    try:
        found = find_spec("opentelemetry.exporter.otlp.proto.http")
    except ModuleNotFoundError:  # a parent of it
        found = None
    if found is None:
        raise ConfigError(
            f"{key}: OpenTelemetry's exporter is not installed, expected the extra [tracing]: "
            "pip install 'lingbot-serve[tracing]'"
        )


def create_provider(endpoint: str, *, instance: str) -> "TracerProvider":
    """Sends spans to `endpoint`/v1/traces from a thread. `instance` names this process.

    Raises ConfigError without the extra's packages.
    """
    check_tracing()
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    resource = Resource.create({"service.name": "lingbot", "service.instance.id": instance})
    # At exit nothing is flushed: an absent collector would hold up the process for half a minute.
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    exporter = OTLPSpanExporter(f"{endpoint.rstrip('/')}/v1/traces", timeout=EXPORT_TIMEOUT_S)
    delay_ms = 1000 * EXPORT_PERIOD_S
    provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=delay_ms))
    return provider


class Tracing:
    """An `Observer`."""

    def __init__(self, provider: "TracerProvider") -> None:
        self._tracer = provider.get_tracer("lingbot")

    def connected(self, client: Client, now_s: float) -> "ClientSpans":
        return ClientSpans(self._tracer, client, now_s)

    def lagged(self, lag_s: float) -> None: ...


class ClientSpans:
    """A `SessionObserver`."""

    def __init__(self, tracer: "Tracer", client: Client, now_s: float) -> None:
        from opentelemetry.trace import SpanKind, set_span_in_context

        self._tracer = tracer
        self._offset_ns = time.time_ns() - int(now_s * 1e9)  # from the event loop's clock
        self._asked_s = now_s
        attributes = {"lingbot.kind": client.kind, "lingbot.token": client.token or ""}
        self._session = tracer.start_span(
            "session",
            context=_context_of(client),
            kind=SpanKind.SERVER,
            start_time=self._time_ns(now_s),
            attributes=attributes,
        )
        self._context = set_span_in_context(self._session)

    def asked(self, now_s: float) -> None:
        self._asked_s = now_s

    def waits(self, status: Queued | Starting) -> None: ...

    def opened(self, now_s: float, session_id: str, *, width: int, height: int) -> None:
        self._session.set_attribute("lingbot.session_id", session_id)
        self._session.set_attribute("lingbot.size", f"{width}x{height}")
        self._record("open", self._asked_s, now_s)

    def moved(self, state: State) -> None:
        self._session.add_event(state)

    def sent(self, chunk: SentChunk) -> None:
        if not self._session.is_recording():
            return
        self._record("step", chunk.begun_s, chunk.denoised_s, chunk=chunk.index)
        self._record("decode", chunk.denoised_s, chunk.decoded_s, chunk=chunk.index)
        self._record("encode", chunk.decoded_s, chunk.encoded_s, chunk=chunk.index)
        self._record("send", chunk.first_byte_s, chunk.sent_s, chunk=chunk.index)

    def closed(self, now_s: float, end: SessionEnd) -> None:
        from opentelemetry.trace import StatusCode

        self._session.set_attribute("lingbot.end", end.label)
        self._session.set_attribute("lingbot.num_chunks", end.num_chunks)
        if end.label in ("internal", "world_lost"):
            self._session.set_status(StatusCode.ERROR, end.reason)
        self._session.end(self._time_ns(now_s))

    def _record(self, name: str, start_s: float, end_s: float, **attributes: int) -> None:
        span = self._tracer.start_span(
            name,
            context=self._context,
            start_time=self._time_ns(start_s),
            attributes={f"lingbot.{key}": value for key, value in attributes.items()},
        )
        span.end(self._time_ns(max(start_s, end_s)))

    def _time_ns(self, time_s: float) -> int:
        return self._offset_ns + int(time_s * 1e9)


def _context_of(client: Client) -> "Context":
    """The client's span as a parent; without one, an empty context."""
    from opentelemetry.context import Context
    from opentelemetry.trace import (
        NonRecordingSpan,
        SpanContext,
        TraceFlags,
        set_span_in_context,
    )

    context = Context()
    if client.trace is None:
        return context
    parent = SpanContext(
        int(client.trace.trace_id, 16),
        int(client.trace.span_id, 16),
        is_remote=True,
        trace_flags=TraceFlags(client.trace.is_sampled),
    )
    return set_span_in_context(NonRecordingSpan(parent), context)
