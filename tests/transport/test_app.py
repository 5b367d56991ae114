import pytest
from msgspec import msgpack
from starlette.testclient import TestClient

from transport.access import Access
from transport.app import build_app
from transport.paths import SOCKET_PATH
from transport.wire.limits import ClientLimits

GETS = [
    "/",
    "/health",
    "/v1/world",
    "/v1/openings/grey%20hill",
    "/v1/models",
    "/v1/models/fake",
    "/models",
    "/server_info",
    "/model_info",
    "/asyncapi.json",
    "/openapi.json",
    "/static/index.html",
    "/none",
]


@pytest.mark.parametrize("path", ["/v1/openings/none", "/static/none.js", "/none"])
def test_a_missing_path_is_not_found(server, path):
    assert server.http.get(path).status_code == 404


def test_the_page_and_its_files_are_served(server):
    page = server.http.get("/")
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    assert server.http.get("/static/index.html").text == page.text


def test_a_socket_over_the_limit_is_closed_as_busy(world, serve):
    with serve(world, max_sockets=2) as server, server.dial() as first:
        with server.dial(), server.dial() as third:
            error = third.read()
            assert (error["code"], error["content"]) == ("busy", "all 2 sockets are taken")
            assert error["retry_after_s"] == 5
            assert third.close_of() == (1013, "all 2 sockets are taken")
        with server.dial() as fourth:  # takes the place of the second
            fourth.init()
            assert fourth.read()["type"] == "frame_batch"
        first.init()
        assert first.read()["type"] == "frame_batch"


@pytest.fixture
def anywhere(world, serve):
    """A server for pages of every origin."""
    with serve(world, access=Access(allowed_origins=["*"])) as serving:
        yield serving


@pytest.mark.parametrize("path", GETS)
def test_pages_of_any_origin_may_read(anywhere, path):
    """Upstream's web page is opened from a file, whose origin is "null"."""
    for origin in ("null", "https://example.com"):
        answer = anywhere.http.get(path, headers={"origin": origin})
        assert answer.headers["access-control-allow-origin"] == "*"


def test_refusals_and_clips_may_be_read_too(anywhere):
    headers = {"origin": "https://example.com"}
    for fields in ({"actions": "w-1"}, {"promt": "x"}):
        answer = anywhere.http.post("/v1/clips", data=fields, headers=headers)
        assert answer.headers["access-control-allow-origin"] == "*"
        assert answer.headers["access-control-expose-headers"] == "x-seed, x-warning, retry-after"


def preflight(http, path, method, origin="https://example.com"):
    headers = {
        "origin": origin,
        "access-control-request-method": method,
        "access-control-request-headers": "authorization,content-type",
    }
    return http.options(path, headers=headers)


@pytest.mark.parametrize("path, method", [("/models", "GET"), ("/v1/clips", "POST")])
def test_a_preflight_allows_what_an_endpoint_takes(anywhere, path, method):
    answer = preflight(anywhere.http, path, method)
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == "*"
    assert method in answer.headers["access-control-allow-methods"]
    assert "authorization" in answer.headers["access-control-allow-headers"]
    assert preflight(anywhere.http, path, "DELETE").status_code == 400


@pytest.mark.parametrize("origins", [["https://example.com"], []])
def test_only_listed_origins_may_read(world, origins):
    with TestClient(build_app(world, access=Access(allowed_origins=origins))) as http:
        for origin in ("https://example.com", "https://example.org", "http://example.com", "null"):
            answer = http.get("/models", headers={"origin": origin})
            allowed = answer.headers.get("access-control-allow-origin")
            assert allowed == (origin if origin in origins else None)
            status = preflight(http, "/models", "GET", origin).status_code
            assert status == (200 if origin in origins else 400)


def test_changed_limits_hold_for_the_next_socket(world):
    limits = ClientLimits(max_sockets=1)
    with (
        TestClient(build_app(world, limits=lambda: limits)) as http,
        http.websocket_connect(SOCKET_PATH),
    ):
        with http.websocket_connect(SOCKET_PATH) as second:
            assert msgpack.decode(second.receive_bytes())["code"] == "busy"
        limits = ClientLimits(max_sockets=2)
        with http.websocket_connect(SOCKET_PATH) as second:
            second.send_bytes(msgpack.encode({"type": "dance"}))
            assert msgpack.decode(second.receive_bytes())["code"] == "unknown_type"
