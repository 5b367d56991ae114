import anyio
import pytest
from starlette.testclient import TestClient

from transport.app import build_app
from transport.http import sessions
from transport.http.sessions import SessionInfo, SessionList

SESSION = SessionInfo(
    id="s1",
    group="g1",
    state="active",
    width=32,
    height=16,
    age_s=1.5,
    chunks=3,
    memory_bytes=1000,
)
OPERATOR = {"authorization": "Bearer s3cret"}


async def list_sessions():
    return SessionList(complete=False, missing_groups=["g2"], sessions=[SESSION])


@pytest.fixture
def token_file(tmp_path):
    file = tmp_path / "token"
    file.write_text("s3cret\n")
    return file


@pytest.fixture
def http(world, token_file):
    app = build_app(world, list_sessions=list_sessions, operator_token_file=token_file)
    with TestClient(app) as client:
        yield client


def test_an_operator_reads_the_list(http):
    answer = http.get("/v1/sessions", headers=OPERATOR)
    assert answer.status_code == 200
    body = answer.json()
    assert (body["complete"], body["missing_groups"]) == (False, ["g2"])
    (session,) = body["sessions"]
    assert (session["id"], session["group"], session["state"]) == ("s1", "g1", "active")
    assert session["transport"] is None


@pytest.mark.parametrize("header", [None, "Bearer ", "Bearer s3cre", "Basic s3cret", "s3cret", "ä"])
def test_nobody_else_does(http, header):
    headers = {} if header is None else {"authorization": header.encode()}
    answer = http.get("/v1/sessions", headers=headers)
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert answer.json()["error"]["code"] == "unauthorized"
    assert "s1" not in answer.text


def test_a_changed_token_counts_at_once(http, token_file):
    token_file.write_text("other")
    assert http.get("/v1/sessions", headers=OPERATOR).status_code == 401
    other = {"authorization": "bearer other"}
    assert http.get("/v1/sessions", headers=other).status_code == 200


@pytest.mark.parametrize("content", [None, b"", b" \n", b"\xff\xfe"])
def test_a_file_that_cannot_be_used_lets_nobody_in(http, token_file, content, caplog):
    token_file.unlink()
    if content is not None:
        token_file.write_bytes(content)
    for headers in (OPERATOR, {"authorization": "Bearer "}, {}):
        assert http.get("/v1/sessions", headers=headers).status_code == 403


def test_without_a_file_nobody_may_read_it(world):
    with TestClient(build_app(world, list_sessions=list_sessions)) as client:
        answer = client.get("/v1/sessions", headers=OPERATOR)
    assert answer.status_code == 403
    assert "expected operator_token_file" in answer.json()["error"]["content"]


def test_a_cluster_that_does_not_answer_is_an_error_in_time(world, token_file, monkeypatch):
    monkeypatch.setattr(sessions, "COLLECT_TIMEOUT_S", 0.05)
    app = build_app(world, list_sessions=anyio.sleep_forever, operator_token_file=token_file)
    with TestClient(app) as client:
        answer = client.get("/v1/sessions", headers=OPERATOR)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "timeout")
