"""Requests with and without tokens and origins: refused ones, and those that may enter."""

import logging
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import msgpack
from starlette.testclient import TestClient
from websockets.sync.client import connect

from tests.transport.access.clients import ALICE, bearer, first_message
from tests.waiting import TIMEOUT_S
from transport.access import COOKIE, Access
from transport.access_config import AccessConfig
from transport.app import build_app
from transport.paths import CLIPS_PATH, SOCKET_PATH
from transport.tokens import Tokens

PATHS = [
    "/",
    "/health",
    "/readyz",
    "/v1/world",
    "/v1/sessions",
    "/v1/openings/grey%20hill",
    "/v1/models",
    "/models",
    "/server_info",
    "/model_info",
    "/asyncapi.json",
    "/openapi.json",
    "/static/index.html",
    "/static/",
    "/none",
    "/healthz/",
    "/healthz/x",
    "//healthz",
    SOCKET_PATH,
    CLIPS_PATH,
]


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "OPTIONS", "BREW"])
@pytest.mark.parametrize("path", PATHS)
def test_nothing_answers_without_a_token(http, path, method):
    answer = http.request(method, path, follow_redirects=False)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == 'Bearer realm="lingbot"'
    if method != "HEAD":
        assert answer.json()["error"]["code"] == "unauthorized"


def test_the_probe_of_the_process_answers_without_a_token(http):
    assert http.get("/healthz").status_code != 401


def test_a_path_below_a_prefix_is_guarded_as_well(world, write_tokens):
    """As Serve calls an application with a `route_prefix`."""
    access = Access(tokens=Tokens(AccessConfig(tokens_file=write_tokens("alice"))))
    app = build_app(world, access=access)
    with TestClient(app, root_path="/worlds") as http:
        assert http.get("/worlds/v1/world").status_code == 401
        assert http.get("/worlds/v1/world", headers=bearer()).status_code == 200
        assert http.get("/worlds/healthz").status_code != 401
        assert http.get("/worlds/healthz/healthz").status_code == 401
        cookie = http.get(f"/worlds/?token={ALICE}").headers["set-cookie"]
        assert "Path=/worlds/;" in cookie


def test_a_token_may_be_in_the_header_or_the_query(http):
    assert http.get("/v1/world", headers=bearer()).status_code == 200
    assert http.get("/v1/world", headers={"authorization": f"bearer  {ALICE}"}).status_code == 200
    assert http.get(f"/v1/world?token={ALICE}").status_code == 200
    assert http.get(f"/v1/world?x=1&token={ALICE}").status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        bearer("alice-0123456789abcdeX"),
        bearer(""),
        {"authorization": ALICE},
        {"authorization": f"Basic {ALICE}"},
        {"authorization": f"Bearer {ALICE}, Bearer {ALICE}"},
        {"authorization": f"Bearer {ALICE} x"},
        {"authorization": ""},
    ],
)
def test_a_wrong_token_is_refused_also_beside_a_right_one(headers, http):
    for path in ("/v1/world", f"/v1/world?token={ALICE}"):
        answer = http.get(path, headers=headers)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == 'Bearer realm="lingbot", error="invalid_token"'


def test_a_socket_takes_a_token_from_each_place(http):
    assert first_message(http, headers=bearer()) == "frame_batch"
    assert first_message(http, f"{SOCKET_PATH}?token={ALICE}") == "frame_batch"
    assert first_message(http, subprotocols=["bearer", ALICE]) == "frame_batch"
    with http.websocket_connect(SOCKET_PATH, subprotocols=["bearer", ALICE]) as socket:
        assert socket.accepted_subprotocol == "bearer"


@pytest.mark.parametrize(
    "fields, reason",
    [
        ({}, "a token is required"),
        ({"headers": bearer("alice-0123456789abcdeX")}, "the token is unknown"),
        ({"subprotocols": ["bearer", "alice-0123456789abcdeX"]}, "the token is unknown"),
        ({"subprotocols": ["bearer"]}, "a token is required"),
        ({"subprotocols": [ALICE, "bearer"]}, "a token is required"),
        ({"headers": {"cookie": f"{COOKIE}=x"}}, "the token is unknown"),
    ],
)
def test_a_socket_without_a_token_gets_an_error_and_1008(http, world, fields, reason):
    code, close_code, text, _ = first_message(http, **fields)
    assert (code, close_code) == ("unauthorized", 1008)
    assert text.startswith(reason)
    assert not world.specs


def test_a_browser_can_read_the_refusal_of_its_subprotocols(http):
    """It closes a socket whose server accepts none of them."""
    with http.websocket_connect(SOCKET_PATH, subprotocols=["bearer", "x" * 20]) as socket:
        assert socket.accepted_subprotocol == "bearer"


def test_a_socket_on_a_wrong_path_asks_for_a_token_first(http):
    code, *_ = first_message(http, "/none")
    assert code == "unauthorized"


def test_the_page_keeps_its_token_in_a_cookie(http):
    answer = http.get(f"/?token={ALICE}")
    assert answer.headers["set-cookie"] == f"{COOKIE}={ALICE}; Path=/; HttpOnly; SameSite=Lax"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["cache-control"] == "no-store"
    for path in ("/static/page.js", "/v1/world", "/"):
        assert http.get(path).status_code == 200
    own = {"origin": "http://testserver"}
    assert first_message(http, headers=own) == "frame_batch"
    answer = http.get("/", headers={"x-forwarded-proto": "https"}, params={"token": ALICE})
    assert answer.headers["set-cookie"].endswith("; Secure")


def test_only_the_page_and_only_a_good_token_sets_the_cookie(http):
    assert "set-cookie" not in http.get(f"/v1/world?token={ALICE}").headers
    assert "set-cookie" not in http.get("/?token=alice-0123456789abcdeX").headers
    evil = http.get("/?token=x;Domain=example.com", headers=bearer())
    assert evil.status_code == 200 and "set-cookie" not in evil.headers


def test_a_cookie_counts_for_the_page_s_own_requests_alone(guard):
    """A browser sends it for a page of another port, too."""
    with guard(allowed_origins=["*"]) as http:
        http.cookies.set(COOKIE, ALICE)
        other = {"origin": "http://testserver:8080"}
        assert http.get("/v1/world", headers=other).status_code == 401
        assert http.post(CLIPS_PATH, headers=other).status_code == 401
        assert first_message(http, headers=other)[0] == "unauthorized"
        assert http.get("/v1/world", headers=other | bearer()).status_code == 200


def test_a_clip_does_not_take_the_token_for_a_parameter(http):
    fields = {"actions": "w-1", "seed": 3}
    assert http.post(f"{CLIPS_PATH}?token={ALICE}", json=fields).status_code == 200
    answer = http.post(f"{CLIPS_PATH}?token={ALICE}&x=1", json=fields)
    assert answer.status_code == 400 and "0123456789" not in answer.text


def test_no_token_is_logged(http, caplog):
    with caplog.at_level(logging.DEBUG, logger="transport"):
        http.get(f"/v1/world?token={ALICE}")
        http.post(f"{CLIPS_PATH}?token={ALICE}", json={"actions": "w-1"})
        http.get(f"/none?token={ALICE}x")
        first_message(http, f"{SOCKET_PATH}?token={ALICE}")
        first_message(http, subprotocols=["bearer", ALICE + "x"])
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("transport")]
    assert any("token alice: a session begins" in line for line in ours)
    assert any("token alice: a clip begins" in line for line in ours)
    assert not any("0123456789" in line for line in ours)


# ---- origins


@pytest.mark.parametrize(
    "origin",
    ["http://testserver", "https://testserver", "http://testserver:80", "http://TESTSERVER"],
)
def test_a_page_of_the_server_itself_and_a_tool_may_open_sockets(server, origin):
    assert first_message(server.http, headers={"origin": origin}) == "frame_batch"
    assert first_message(server.http) == "frame_batch"


@pytest.mark.parametrize(
    "origin",
    [
        "http://example.com",
        "http://testserver:8080",
        "http://testserver.example.com",
        "http://example.com/testserver",
        "http://testserver@example.com",
        "http://testserver:x",
        "null",
        "file://",
        "testserver",
        "",
        "http://[testserver",
    ],
)
def test_a_page_of_another_origin_is_forbidden(server, world, origin):
    code, close_code, text, _ = first_message(server.http, headers={"origin": origin})
    assert (code, close_code) == ("forbidden", 1008)
    assert "is not allowed, expected one of allowed_origins" in text
    answer = server.http.post(CLIPS_PATH, json={"actions": "w-1"}, headers={"origin": origin})
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "forbidden")
    assert not world.specs


@pytest.mark.parametrize("origins", [["https://example.com", "null"], ["*"]])
def test_a_listed_origin_may_open_sockets_and_make_clips(world, serve, origins):
    with serve(world, access=Access(allowed_origins=origins)) as serving:
        for origin in ("https://example.com", "null"):
            headers = {"origin": origin}
            assert first_message(serving.http, headers=headers) == "frame_batch"
            answer = serving.http.post(CLIPS_PATH, json={"actions": "w-1"}, headers=headers)
            assert answer.status_code == 200


def test_a_page_of_a_listed_origin_can_read_why_it_is_refused(guard):
    with guard(allowed_origins=["https://example.com"]) as http:
        answer = http.get("/v1/world", headers={"origin": "https://example.com"})
        assert answer.status_code == 401
        assert answer.headers["access-control-allow-origin"] == "https://example.com"
        asked = {
            "origin": "https://example.com",
            "access-control-request-method": "GET",
            "access-control-request-headers": "authorization",
        }
        assert http.options("/v1/world", headers=asked).status_code == 200


# ---- a real server, and anything in the headers


def test_a_real_socket_gets_the_refusals_too(world, listen):
    with (
        listen(world) as port,
        connect(
            f"ws://127.0.0.1:{port}{SOCKET_PATH}",
            origin="http://example.com",
            open_timeout=TIMEOUT_S,
        ) as socket,
    ):
        assert msgpack.decode(socket.recv())["code"] == "forbidden"


HEADER = st.binary(max_size=60) | st.sampled_from([b"Bearer ", b"bearer\t", b"Bearer"]).flatmap(
    lambda scheme: st.binary(max_size=60).map(lambda rest: scheme + rest)
)


def test_any_authorization_is_refused_in_time(http):
    @settings(max_examples=300)
    @given(HEADER, st.text(max_size=60))
    def run(header, query):
        fields = {"headers": [(b"authorization", header)], "params": {"token": query}}
        assert http.get("/v1/world", **fields).status_code == 401

    began = time.process_time()
    run()
    assert time.process_time() - began < 60
