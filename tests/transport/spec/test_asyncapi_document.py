"""The AsyncAPI document in itself."""

from jsonschema import Draft7Validator
from msgspec import json
from starlette.testclient import TestClient

from tests.transport.spec.asyncapi_document import DOCUMENT, MESSAGES, SCHEMAS
from transport.app import build_app
from transport.paths import SOCKET_PATH


def refs(node):
    if isinstance(node, dict):
        if "$ref" in node:
            yield node["$ref"]
        node = list(node.values())
    if isinstance(node, list):
        for inner in node:
            yield from refs(inner)


def test_every_reference_resolves():
    for ref in refs(DOCUMENT):
        place = DOCUMENT
        for name in ref.removeprefix("#/").split("/"):
            place = place[name]


def test_every_schema_is_valid():
    for schema in SCHEMAS.values():
        Draft7Validator.check_schema(schema)


def test_the_rules_of_asyncapi_3_hold():
    assert DOCUMENT["asyncapi"] == "3.0.0"
    assert {"title", "version"} <= DOCUMENT["info"].keys()
    (channel,) = DOCUMENT["channels"].values()
    assert channel["address"] == SOCKET_PATH
    assert channel["bindings"]["ws"]["method"] == "GET"
    assert channel["messages"].keys() == MESSAGES.keys()
    for action, operation in DOCUMENT["operations"].items():
        assert operation["action"] == action
        assert operation["channel"] == {"$ref": "#/channels/realtime"}
        for message in operation["messages"]:  # the channel's messages, not the components'
            assert message["$ref"].startswith("#/channels/realtime/messages/")
    for name in [*SCHEMAS, *MESSAGES]:
        assert name.replace("_", "").replace("-", "").isalnum()


def test_it_is_json():
    assert json.decode(json.encode(DOCUMENT)) == DOCUMENT


def test_it_is_served(world):
    with TestClient(build_app(world)) as http:
        answer = http.get("/asyncapi.json")
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == DOCUMENT
