"""Metrics, logs, traces and the list of sessions of a real server with one group."""

import asyncio
import json
import re
import time
import urllib.request

import pytest

from benchmarks.http_answer import answer_to
from benchmarks.local_server import local_server
from benchmarks.server_sample import read_metrics
from deployments.observability.metrics import METRICS
from tests.deployments.observability.test_tracing import collector
from tests.waiting import wait_until
from transport.client import connect

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = {"traceparent": f"00-{TRACE}-{SPAN}-01"}


@pytest.fixture(scope="module")
def traced(tmp_path_factory):
    token_file = tmp_path_factory.mktemp("operator") / "token"
    token_file.write_text("s3cret")
    with collector() as (address, spans, _):
        args = {
            "log_format": "json",
            "otlp_endpoint": address,
            "operator_token_file": str(token_file),
        }
        with local_server(args) as running:
            yield running, spans


def get(server, path, **headers):
    request = urllib.request.Request(server.http + path, headers=headers)
    answer = answer_to(request)
    return answer.status, answer.body.decode()


async def walk(server, *, during):
    """A client that sends keys and receives chunks until `during` returns something."""
    async with connect(server.ws) as client:
        await client.send_actions([["w"]] * 6)
        asking = asyncio.create_task(asyncio.to_thread(wait_until, during, every_s=0.5))
        async for _ in client.chunks():
            if asking.done():
                break
        return await asking


def test_one_session_is_seen_everywhere(traced):
    server, spans = traced
    assert get(server, "/healthz") == (200, "ok\n")
    assert json.loads(get(server, "/readyz")[1])["status"] == "ready"
    assert get(server, "/v1/sessions")[0] == 401

    def listed():
        status, body = get(server, "/v1/sessions", authorization="Bearer s3cret")
        assert status == 200, body
        found = json.loads(body)  # a busy group may be missing, and a report come before a chunk
        return [one for one in found["sessions"] if one["transport"] and one["sent_chunks"]]

    (session,) = asyncio.run(asyncio.wait_for(walk(server, during=listed), 120))
    assert (session["state"], session["kind"]) == ("active", "stream")
    assert session["chunks"] >= session["sent_chunks"]
    assert session["memory_bytes"] > 0 and session["age_s"] > 0
    clip = urllib.request.Request(
        f"{server.http}/v1/clips",
        json.dumps({"actions": "w-6"}).encode(),
        {"content-type": "application/json"} | TRACEPARENT,
    )
    with urllib.request.urlopen(clip, timeout=60) as answer:
        num_bytes = len(answer.read())

    def lines():
        texts = re.findall(r"\{.*session_closed.*\}", server.log.read_text())
        found = [json.loads(text) for text in texts]
        return len(found) >= 2 and found

    walked, filmed = wait_until(lines, every_s=0.5)
    assert (walked["session_id"], walked["label"]) == (session["id"], "client_left")
    assert walked["chunks"] > 0 and walked["duration_s"] > 0
    assert (filmed["kind"], filmed["trace_id"], filmed["bytes"]) == ("clip", TRACE, num_bytes)
    wait_until(lambda: {s.name for s in spans if s.trace_id.hex() == TRACE} >= {"session", "step"})
    roots = [span for span in spans if span.parent_span_id.hex() == SPAN]
    assert [span.name for span in roots] == ["session"]


QUIET = {
    "stalls",
    "stall_seconds",
    "dropped_frames",
    "refusals",
    "camera_cache_evictions",
    "resumes",
    "expired_leases",
}


def test_every_metric_is_exported_under_the_name_that_the_dashboard_has(traced):
    """Metrics of what did not happen are absent."""
    server, _ = traced

    def missing():
        text = read_metrics(server)
        names = set(re.findall(r"^(ray_lingbot_\w+)", text, re.MULTILINE))
        wanted = {
            f"ray_{name}{suffix}"
            for name, spec in METRICS.items()
            for suffix in spec.suffixes
            if name.removeprefix("lingbot_") not in QUIET
        }
        return wanted - names

    deadline = time.monotonic() + 60
    while left := missing():
        assert time.monotonic() < deadline, left
        time.sleep(1)
    for _ in range(8):  # for longer than Ray keeps a gauge that nobody sets
        time.sleep(5)
        assert not missing()
