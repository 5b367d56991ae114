"""The OpenAPI document against the Structs and the routes that it describes."""

import pytest
from jsonschema import Draft202012Validator
from msgspec import json
from starlette.routing import Route
from starlette.testclient import TestClient

from transport.app import build_app
from transport.http.clip_request import ClipRequest
from transport.http.world_info import WorldDescription, describe_world
from transport.spec.openapi import build_openapi
from transport.wire.controls import parse_actions
from transport.wire.errors import BadMessage

DOCUMENT = build_openapi()
SCHEMAS = DOCUMENT["components"]["schemas"]


def errors_of(name, body):
    """The errors of a body by the schema of this name."""
    schema = {"components": DOCUMENT["components"], "$ref": f"#/components/schemas/{name}"}
    return [error.message for error in Draft202012Validator(schema).iter_errors(body)]


def test_every_schema_is_valid():
    for schema in SCHEMAS.values():
        Draft202012Validator.check_schema(schema)


def test_it_is_json_of_openapi_3_1():
    assert json.decode(json.encode(DOCUMENT)) == DOCUMENT
    assert DOCUMENT["openapi"].startswith("3.1.")
    for operations in DOCUMENT["paths"].values():
        for operation in operations.values():
            assert all(answer["description"] for answer in operation["responses"].values())


def test_every_route_but_the_page_is_described(world):
    routes = [route for route in build_app(world).routes if isinstance(route, Route)]
    assert {route.path for route in routes} | {"/"} == DOCUMENT["paths"].keys() | {"/"}


@pytest.mark.parametrize("struct", [ClipRequest, WorldDescription])
def test_every_field_is_described(struct):
    assert SCHEMAS[struct.__name__]["properties"].keys() == {*struct.__struct_fields__}


def test_a_form_may_carry_a_file():
    kinds = DOCUMENT["paths"]["/v1/clips"]["post"]["requestBody"]["content"]
    assert kinds["multipart/form-data"]["schema"]["$ref"].endswith("ClipForm")
    choices = SCHEMAS["ClipForm"]["properties"]["image"]["anyOf"]
    assert {"type": "string", "format": "binary"} in choices
    assert choices[1:] == SCHEMAS["ClipRequest"]["properties"]["image"]["anyOf"]


def test_a_description_of_a_world_validates(world):
    body = json.decode(json.encode(describe_world(world.info)))
    assert errors_of("WorldDescription", body) == []
    assert errors_of("WorldDescription", body | {"fps": "16"}) != []


@pytest.mark.parametrize("text", ["w-6", "w-6,wl-4,none-2", "W-1,None-2", "wasdijkl-240"])
def test_accepted_actions_validate(text):
    assert parse_actions(text)
    assert errors_of("ClipRequest", {"actions": text}) == []


@pytest.mark.parametrize("text", ["", "w", "q-1", "w-0", "w6", "w-6,", "none", "-3", "w--3"])
def test_refused_actions_do_not_validate(text):
    with pytest.raises(BadMessage):
        parse_actions(text)
    assert errors_of("ClipRequest", {"actions": text}) != []


@pytest.mark.parametrize("fields", [{"seed": "x"}, {"size": "big"}, {"format": "gif"}, {}])
def test_a_refusal_validates_and_its_request_does_not(fields, world):
    request = {"actions": "w-3"} | fields if fields else {}
    with TestClient(build_app(world)) as http:
        answer = http.post("/v1/clips", json=request)
    assert answer.status_code == 400
    assert errors_of("Failure", answer.json()) == []
    assert errors_of("ClipRequest", request) != []


def test_health_validates(world):
    with TestClient(build_app(world)) as http:
        assert errors_of("Health", http.get("/health").json()) == []
        world.running.clear()
        assert errors_of("Health", http.get("/health").json()) == []


def test_it_is_served(world):
    with TestClient(build_app(world)) as http:
        answer = http.get("/openapi.json")
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == DOCUMENT
