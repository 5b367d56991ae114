import http.client

import pytest
from starlette.testclient import WebSocketDenialResponse
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from tests.waiting import TIMEOUT_S
from transport.paths import SOCKET_PATH

WRONG_SOCKETS = [
    "/",
    "/v1/realtime_video",
    "/v1/realtime_video/generate/",
    "/v1/realtime_video/generate/x",
    "/V1/realtime_video/generate",
    "/ws",
    "/health",
    "/v1/clips",
    "/static/index.html",
    "/static/none",
    "/v1/openings/grey hill",
]


def ask(port, method, path, **headers):
    """(status, headers, text) from a server on loopback."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
    try:
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer.status, dict(answer.headers), answer.read().decode()
    finally:
        connection.close()


@pytest.mark.parametrize("path", WRONG_SOCKETS)
def test_a_socket_on_a_wrong_path_gets_404_and_the_right_one(server, path):
    with pytest.raises(WebSocketDenialResponse) as denied, server.http.websocket_connect(path):
        pass
    assert denied.value.status_code == 404
    assert denied.value.text == f"'{path}' is not a WebSocket, expected {SOCKET_PATH}\n"


def test_a_server_that_cannot_answer_a_handshake_refuses_it(server):
    sent = []

    async def send(message):
        sent.append(message["type"])

    async def receive():
        return {"type": "websocket.connect"}

    scope = {"type": "websocket", "path": "/ws", "headers": [], "query_string": b""}
    server.http.portal.call(server.http.app, scope, receive, send)
    assert sent == ["websocket.close"]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_request_without_a_handshake_on_the_socket_s_path_gets_426(server, method):
    answer = server.http.request(method, SOCKET_PATH)
    assert answer.status_code == 426
    assert answer.headers["upgrade"] == "websocket"
    if method == "GET":
        assert answer.text == (
            f"{SOCKET_PATH} is a WebSocket, expected a handshake: ws://HOST{SOCKET_PATH}\n"
        )


@pytest.mark.parametrize(
    "method, path, allowed",
    [
        ("GET", "/v1/clips", "POST"),
        ("PUT", "/v1/clips", "POST"),
        ("POST", "/health", "GET, HEAD"),
        ("DELETE", "/v1/world", "GET, HEAD"),
        ("POST", SOCKET_PATH, "GET, HEAD"),
        ("POST", "/", "GET, HEAD"),
        ("POST", "/static/index.html", "GET, HEAD"),
        ("OPTIONS", "/health", "GET, HEAD"),
    ],
)
def test_a_wrong_method_gets_the_right_ones(server, method, path, allowed):
    answer = server.http.request(method, path)
    assert (answer.status_code, answer.headers["allow"]) == (405, allowed)
    assert answer.text == f"'{method}' is not a method of '{path}', expected {allowed}\n"


@pytest.mark.parametrize(
    "path, nearest",
    [
        ("/helth", "/health"),
        ("/v1/clip", "/v1/clips"),
        ("/openapi", "/openapi.json"),
        ("/v1/realtime_video", SOCKET_PATH),
    ],
)
def test_a_wrong_path_gets_404_and_the_nearest_one(server, path, nearest):
    answer = server.http.get(path)
    assert answer.status_code == 404
    assert answer.text == f"there is no '{path}', the nearest is {nearest}\n"


def test_a_path_that_resembles_none_is_answered_briefly(server):
    assert server.http.get("/" + "x" * 10_000).text.startswith("there is no '/xxx")
    assert len(server.http.get("/" + "x" * 10_000).text) < 100
    assert server.http.get("/static/none.js").status_code == 404


@pytest.mark.parametrize("path", ["/health/", "/v1/world/"])
def test_a_trailing_slash_leads_to_the_path(server, path):
    assert server.http.get(path).status_code == 200
    assert server.http.get(path, follow_redirects=False).status_code == 307


def test_a_server_on_a_real_socket_answers_so_too(world, listen):
    with listen(world) as port:
        for path in ("/v1/realtime_video", "/health", "/static/x"):
            with pytest.raises(InvalidStatus) as denied:
                connect(f"ws://127.0.0.1:{port}{path}", open_timeout=TIMEOUT_S)
            assert denied.value.response.status_code == 404
            assert SOCKET_PATH.encode() in denied.value.response.body
        assert ask(port, "GET", SOCKET_PATH)[0] == 426
        assert ask(port, "HEAD", SOCKET_PATH)[0] == 426
        assert ask(port, "POST", SOCKET_PATH)[0] == 405
        # A handshake without its key is the server's own to refuse.
        status, _, text = ask(port, "GET", SOCKET_PATH, Connection="Upgrade", Upgrade="websocket")
        assert (status, "Sec-WebSocket-Key" in text) == (400, True)
