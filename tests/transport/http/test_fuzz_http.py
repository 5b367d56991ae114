"""Requests generated from the OpenAPI document, whose answers must conform to it."""

import gc
from collections import Counter

import pytest
import schemathesis
from hypothesis import given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS, load_all_checks

from transport.app import build_app
from transport.paths import SOCKET_PATH
from transport.spec.openapi import build_openapi
from transport.wire.errors import Busy, Refused, WorldFailed, WorldLost

OPERATIONS = [
    (path, method) for path, operations in build_openapi()["paths"].items() for method in operations
]
OPERATOR = {"authorization": "Bearer operator"}  # without it there is no list of sessions
load_all_checks()
CONFORMANCE = CHECKS.get_by_names(
    [
        "status_code_conformance",
        "content_type_conformance",
        "response_headers_conformance",
        "response_schema_conformance",
    ]
)


@pytest.fixture
def operation_of(world, tmp_path):
    """Returns the operation of a path and a method, which calls the app in this process."""
    schema = schemathesis.openapi.from_dict(build_openapi())
    (tmp_path / "token").write_text("operator")
    schema.app = build_app(world, operator_token_file=tmp_path / "token")
    schema.config.update(base_url="http://testserver")
    return lambda path, method: schema[path][method]


def ask(operation, *, mode=GenerationMode.POSITIVE, num=40):
    """The number of answers by status. Every answer conforms to the document."""
    statuses = Counter()

    @settings(derandomize=True, max_examples=num)
    @given(operation.as_strategy(generation_mode=mode))
    def run(case):
        answer = case.call_and_validate(headers=OPERATOR, checks=CONFORMANCE)
        statuses[answer.status_code] += 1

    run()
    return statuses


@pytest.mark.parametrize("path, method", OPERATIONS)
def test_answers_are_as_documented(path, method, operation_of):
    statuses = ask(operation_of(path, method), num=150 if method == "post" else 30)
    assert max(statuses) < 500
    if "{" not in path:  # no opening and no model has a generated name
        assert statuses[426 if path == SOCKET_PATH else 200]


def test_an_opening_is_as_documented(operation_of):
    operation = operation_of("/v1/openings/{name}", "get")
    answer = operation.Case(path_parameters={"name": "grey hill"}).call_and_validate(
        checks=CONFORMANCE
    )
    assert answer.status_code == 200


def test_a_clip_that_is_not_as_documented_is_refused_as_documented(operation_of):
    statuses = ask(operation_of("/v1/clips", "post"), mode=GenerationMode.NEGATIVE, num=100)
    assert max(statuses) < 500
    assert statuses[400]


@pytest.mark.parametrize(
    "error, status",
    [
        (Busy("every place is taken"), 503),
        (WorldLost("gone"), 503),
        (Refused("not this one"), 400),
        (WorldFailed(), 500),
    ],
)
@pytest.mark.parametrize("moment", ["on_open", "on_step"])
def test_an_error_of_the_world_is_reported_as_documented(
    moment, error, status, world, operation_of
):
    setattr(world, moment, error)
    statuses = ask(operation_of("/v1/clips", "post"), num=20)
    assert statuses.keys() <= {400, status}
    assert statuses[status]
    assert not world.live


def test_a_cold_world_is_reported_as_documented(world, operation_of):
    world.running.clear()
    assert ask(operation_of("/health", "get")).keys() == {503}


GOOD_BODIES = {
    "application/json": b'{"actions": "w-3", "seed": 7, "image": "aGk="}',
    "application/x-www-form-urlencoded": b"actions=w-3&seed=7&prompt=a%20hill",
    "application/x-www-form-urlencoded; charset=utf-16": b"actions=w-3&prompt=%d8%00",
    "multipart/form-data; boundary=cut": (
        b'--cut\r\ncontent-disposition: form-data; name="actions"\r\n\r\nw-3\r\n'
        b'--cut\r\ncontent-disposition: form-data; name="image"; filename="a.png"\r\n'
        b"content-type: image/png\r\n\r\n\x89PNG\r\n--cut--\r\n"
    ),
    "multipart/form-data": b"--cut--",
    "text/plain": b"actions=w-3",
}


# Starlette leaves the file of a truncated part to the garbage collector.
@pytest.mark.filterwarnings("ignore:.*SpooledTemporaryFile:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("kind", GOOD_BODIES)
def test_hostile_bodies_are_refused_as_documented(kind, server, operation_of):
    operation, good = operation_of("/v1/clips", "post"), GOOD_BODIES[kind]
    places = st.integers(0, len(good))

    @settings(derandomize=True, max_examples=100)
    @given(st.none() | st.binary(max_size=20), places, places)
    def run(noise, start, stop):
        body = b"" if noise is None else good[:start] + noise + good[stop:]
        answer = server.http.post("/v1/clips", content=body, headers={"content-type": kind})
        operation.Case(media_type="application/json").validate_response(answer, CONFORMANCE)
        assert answer.status_code in (200, 400)

    run()


def test_a_form_that_is_refused_leaves_no_file_open(server):
    kind = "multipart/form-data; boundary=cut"
    image, text = b'name="image"; filename="a.png"', b'name="action"'
    parts = [(image, b"\x89PNG"), (text, b"w-1")]
    body = b"".join(
        b"--cut\r\ncontent-disposition: form-data; %b\r\n\r\n%b\r\n" % part for part in parts
    )
    content = body + b"--cut--\r\n"
    answer = server.http.post("/v1/clips", content=content, headers={"content-type": kind})
    assert answer.status_code == 400
    gc.collect()  # an unclosed file raises a warning, which is an error in tests
