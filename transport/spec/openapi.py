"""The HTTP endpoints beside the socket, as an OpenAPI document."""

from typing import Annotated, Literal

from msgspec import Meta

from transport.http.clip_request import FILES, ClipRequest
from transport.http.error_response import Failure
from transport.http.health import Health
from transport.http.models import (
    ModelCard,
    ModelDescription,
    ModelFailure,
    ModelInfo,
    ModelList,
    ServerInfo,
)
from transport.http.sessions import SessionList
from transport.http.world_info import WorldDescription
from transport.paths import (
    ASYNCAPI_PATH,
    CLIPS_PATH,
    HEALTH_PATH,
    HEALTHZ_PATH,
    MODEL_INFO_PATH,
    MODEL_PATH,
    MODELS_PATH,
    OPENAPI_PATH,
    OPENINGS_PATH,
    READYZ_PATH,
    SERVER_INFO_PATH,
    SESSIONS_PATH,
    SOCKET_PATH,
    WORLD_PATH,
)
from transport.spec.asyncapi import Size
from transport.spec.schema import BYTES, Schema, build_schemas, first_line, narrow, refer
from transport.wire.controls import KEYS

SEGMENT = f"([nN][oO][nN][eE]|[{KEYS}{KEYS.upper()}]+)-[1-9][0-9]{{0,2}}"
Actions = Annotated[
    str, Meta(pattern=f"^{SEGMENT}(,{SEGMENT})*$", examples=["w-6,wl-4,none-2", "none-1"])
]

UNAUTHORIZED = "A valid token is required."

_NAME: Schema = {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}


def build_openapi() -> Schema:
    """The OpenAPI 3.1 document."""
    request = narrow(ClipRequest, actions=Actions, size=Size | None, format=Literal["mp4"])
    models = [ModelList, ModelDescription, ServerInfo, ModelInfo, ModelFailure]
    _, schemas = build_schemas([request, Failure, Health, SessionList, WorldDescription, *models])
    schemas["ClipForm"] = _form(schemas["ClipRequest"])
    return {
        "openapi": "3.1.0",
        "info": {"title": "lingbot-serve", "version": "1", "description": __doc__},
        "paths": {
            CLIPS_PATH: {"post": _clips()},
            WORLD_PATH: {"get": _get("Facts of the served world.", ok=_json("WorldDescription"))},
            f"{OPENINGS_PATH}/{{name}}": {"get": _opening()},
            **_models(),
            HEALTHZ_PATH: {"get": _get("The process: 200 while its event loop turns.", ok=_line())},
            READYZ_PATH: {"get": _health()},
            HEALTH_PATH: {"get": _health()},
            SESSIONS_PATH: {"get": _sessions()},
            SOCKET_PATH: {"get": _socket()},
            ASYNCAPI_PATH: {"get": _get("The socket, as AsyncAPI.", ok=_document())},
            OPENAPI_PATH: {"get": _get("This document.", ok=_document())},
        },
        "components": {
            "schemas": schemas,
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"bearer": []}],  # only a server with `args.access` needs one
    }


def _clips() -> Schema:
    bodies = {
        "application/json": "ClipRequest",
        "application/x-www-form-urlencoded": "ClipRequest",
        "multipart/form-data": "ClipForm",
    }
    refusals = {
        "400": "The request cannot be used.",
        "401": UNAUTHORIZED,
        "403": "The page of another origin is not allowed.",
        "408": "The body stopped.",
        "413": "The body is too large.",
        "429": "A limit of the token is reached.",
        "500": "The world failed.",
        "503": "Every world is in use, or the world was lost. Try again later.",
    }
    answers = {status: _answer(text, _json("Failure")) for status, text in refusals.items()}
    retry_after = _header("Seconds after which a try may succeed; absent if unknown.", "integer")
    for status in ("429", "503"):
        answers[status]["headers"] = {"retry-after": retry_after}
    headers = {
        "x-seed": _header("The seed of the world.", "integer"),
        "x-warning": _header("What is not as requested; absent if nothing is.", "string"),
    }
    return {
        "summary": "One walk as a video.",
        "requestBody": {
            "required": True,
            "content": {kind: {"schema": refer(name)} for kind, name in bodies.items()},
        },
        "responses": {
            "200": _answer("The video.", {"video/mp4": {"schema": BYTES}}) | {"headers": headers},
            **answers,
        },
    }


def _form(request: Schema) -> Schema:
    """The schema of a form, some of whose fields may also be files."""
    fields = request["properties"]
    files = {name: fields[name] | {"anyOf": [BYTES, *fields[name]["anyOf"]]} for name in FILES}
    return request | {"title": "ClipForm", "properties": fields | files}


def _opening() -> Schema:
    images = {kind: {"schema": BYTES} for kind in ("image/png", "image/jpeg")}
    operation = _get("An image that the model comes with.", ok=images)
    operation["parameters"] = [_NAME]
    operation["responses"]["404"] = _answer("There is no opening of this name.", _line())
    return operation


def _models() -> Schema:
    """The paths that upstream's clients read."""
    bodies = {
        MODELS_PATH: ModelList,
        MODEL_PATH: ModelDescription,
        SERVER_INFO_PATH: ServerInfo,
        MODEL_INFO_PATH: ModelInfo,
    }
    paths = {
        path: {"get": _get("For SGLang-Diffusion's clients.", ok=_json(body.__name__))}
        for path, body in bodies.items()
    }
    operation = _get(first_line(ModelCard.__doc__), ok=_json("ModelCard"))
    operation["parameters"] = [_NAME]
    operation["responses"]["404"] = _answer("There is no such model.", _json("ModelFailure"))
    return paths | {f"{MODELS_PATH}/{{name}}": {"get": operation}}


def _socket() -> Schema:
    return {
        "summary": f"The path of the WebSocket, which {ASYNCAPI_PATH} describes.",
        "responses": {
            "401": _answer(UNAUTHORIZED, _json("Failure")),
            "426": _answer("The request is not a WebSocket handshake.", _line()),
        },
    }


def _health() -> Schema:
    operation = _get(first_line(Health.__doc__), ok=_json("Health"))
    operation["responses"]["503"] = _answer(
        "The world is warming up, or has failed to start.", _json("Health")
    )
    return operation


def _sessions() -> Schema:
    operation = _get(first_line(SessionList.__doc__), ok=_json("SessionList"))
    operation["responses"] |= {
        "401": _answer("The operator's bearer token is missing or wrong.", _json("Failure")),
        "403": _answer("The server has no operator's token.", _json("Failure")),
        "503": _answer("The cluster did not answer in time.", _json("Failure")),
    }
    return operation


def _get(summary: str, *, ok: Schema) -> Schema:
    refusal = _answer(UNAUTHORIZED, _json("Failure"))
    return {"summary": summary, "responses": {"200": _answer(summary, ok), "401": refusal}}


def _answer(description: str, content: Schema) -> Schema:
    return {"description": description, "content": content}


def _header(description: str, kind: str) -> Schema:
    return {"description": description, "schema": {"type": kind}}


def _json(name: str) -> Schema:
    return {"application/json": {"schema": refer(name)}}


def _line() -> Schema:
    return {"text/plain": {"schema": {"type": "string"}}}


def _document() -> Schema:
    return {"application/json": {"schema": {"type": "object"}}}
