"""The limits of a token, and the sessions of one that is withdrawn."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from msgspec import msgpack
from starlette.websockets import WebSocketDisconnect

from tests.transport.access.clients import BOB, bearer, first_message
from tests.waiting import TIMEOUT_S
from transport import access
from transport.paths import CLIPS_PATH, SOCKET_PATH


def test_a_token_has_so_many_sessions_at_once(guard):
    with guard(max_sessions=1) as http:
        with http.websocket_connect(SOCKET_PATH, headers=bearer()):
            refused = first_message(http, headers=bearer())
            assert refused == ("busy", 1013, "this token may have 1 sessions at once", 5)
            assert first_message(http, headers=bearer(BOB)) == "frame_batch"
        assert first_message(http, headers=bearer()) == "frame_batch"


def test_a_token_has_so_many_opens_a_minute(guard):
    with guard(opens_per_minute=2) as http:
        for _ in range(2):
            assert first_message(http, headers=bearer()) == "frame_batch"
        code, close_code, _, retry_after_s = first_message(http, headers=bearer())
        assert (code, close_code) == ("busy", 1013) and 0 < retry_after_s <= 60
        answer = http.post(CLIPS_PATH, json={"actions": "w-1"}, headers=bearer())
        assert answer.status_code == 429
        assert 0 < int(answer.headers["retry-after"]) <= 60
        assert http.get("/v1/world", headers=bearer()).status_code == 200


def test_a_token_has_so_many_clips_at_once(guard, world):
    fields = {"json": {"actions": "w-1"}, "headers": bearer()}
    with guard(max_clips=0) as http:
        answer = http.post(CLIPS_PATH, **fields)
        assert answer.status_code == 429
        assert answer.json()["error"]["content"] == "this token may have 0 clips at once"
    with guard(max_clips=1) as http:
        for _ in range(2):  # the first one gives its place back
            assert http.post(CLIPS_PATH, **fields).status_code == 200
        world.on_open = OSError("the world breaks")
        for _ in range(2):
            assert http.post(CLIPS_PATH, **fields).status_code == 500


def test_a_clip_that_is_generated_takes_its_token_s_place(guard, world):
    fields = {"json": {"actions": "w-1"}, "headers": bearer()}
    world.running.clear()
    with guard(max_clips=1) as http, ThreadPoolExecutor(1) as thread:
        first = thread.submit(http.post, CLIPS_PATH, **fields)
        assert world.stepping.wait(TIMEOUT_S)
        refused = http.post(CLIPS_PATH, **fields)
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "5")
        world.running.set()
        assert (
            http.post(CLIPS_PATH, json={"actions": "w-1"}, headers=bearer(BOB)).status_code == 200
        )
        assert first.result().status_code == 200


# ---- withdrawal


@pytest.fixture
def reloading(monkeypatch):
    monkeypatch.setattr(access, "RELOAD_PERIOD_S", 0.01)


def test_a_running_session_of_a_withdrawn_token_is_ended(reloading, guard, world, write_tokens):
    with (
        guard() as http,
        http.websocket_connect(SOCKET_PATH, headers=bearer()) as alice,
        http.websocket_connect(SOCKET_PATH, headers=bearer(BOB)) as bob,
    ):
        for socket in (alice, bob):
            socket.send_bytes(msgpack.encode({"type": "init", "extensions": True}))
            socket.receive_bytes()
        write_tokens("bob")
        with pytest.raises(WebSocketDisconnect) as closed:
            while True:
                last = alice.receive_bytes()
        message = msgpack.decode(last)
        assert (message["code"], message["content"]) == (
            "unauthorized",
            "the token has been withdrawn",
        )
        assert (closed.value.code, closed.value.reason) == (1008, "the token has been withdrawn")
        assert http.get("/v1/world", headers=bearer()).status_code == 401
        assert len(world.live) == 1
        bob.receive_bytes()


def test_a_socket_that_says_nothing_is_ended_as_well(reloading, guard, write_tokens):
    with guard() as http, http.websocket_connect(SOCKET_PATH, headers=bearer()) as alice:
        write_tokens("bob")
        assert msgpack.decode(alice.receive_bytes())["code"] == "unauthorized"
