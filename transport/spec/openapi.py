"""The HTTP endpoints as an OpenAPI document, out of the Structs that they read and write."""

from functools import cache
from typing import Annotated, Literal

from msgspec import Meta, Struct

from transport.event_loop_lag import EventLoopLagStats
from transport.http.clip import ClipRequest
from transport.spec.asyncapi import Size
from transport.spec.schema import BYTES, Schema, describe, first_line, narrow, refer
from transport.wire.controls import KEYS
from transport.wire.errors import ErrorCode

SEGMENT = f"(none|[{KEYS}]+)-[1-9][0-9]{{0,2}}"
Actions = Annotated[
    str, Meta(pattern=f"^{SEGMENT}(,{SEGMENT})*$", examples=["w-6,wl-4,none-2", "none-1"])
]


class Reason(Struct, frozen=True):
    code: ErrorCode
    content: str
    field: str | None


class Failure(Struct, frozen=True):
    """Why there is no clip."""

    error: Reason


class Health(Struct, frozen=True):
    """Whether a world can be opened at once, and how late the event loop runs."""

    status: Literal["ready", "warming"]
    loop_lag_ms: EventLoopLagStats | None  # null before the first sample


@cache
def describe_http() -> Schema:
    """The OpenAPI 3.1 document. It is built once: do not change it."""
    from transport.app import WorldDescription  # which serves this document

    request = narrow(ClipRequest, actions=Actions, size=Size | None, format=Literal["mp4"])
    _, schemas = describe([request, Failure, Health, WorldDescription])
    schemas["ClipForm"] = _form(schemas["ClipRequest"])
    return {
        "openapi": "3.1.0",
        "info": {"title": "lingbot-serve", "version": "1", "description": __doc__},
        "paths": {
            "/v1/clips": {"post": _clips()},
            "/v1/world": {"get": _get("What is served.", ok=_json("WorldDescription"))},
            "/v1/openings/{name}": {"get": _opening()},
            "/health": {"get": _health()},
            "/asyncapi.json": {"get": _get("The socket, as AsyncAPI.", ok=_document())},
            "/openapi.json": {"get": _get("This document.", ok=_document())},
        },
        "components": {"schemas": schemas},
    }


def _clips() -> Schema:
    bodies = {
        "application/json": "ClipRequest",
        "application/x-www-form-urlencoded": "ClipRequest",
        "multipart/form-data": "ClipForm",
    }
    refusals = {
        "400": "The request cannot be used.",
        "413": "The body is too large.",
        "500": "The world failed.",
        "503": "Every place is taken, or the world was lost. Try again later.",
    }
    return {
        "summary": "One walk, as a video.",
        "requestBody": {
            "required": True,
            "content": {kind: {"schema": refer(name)} for kind, name in bodies.items()},
        },
        "responses": {
            "200": _answer("The video.", {"video/mp4": {"schema": BYTES}}),
            **{status: _answer(text, _json("Failure")) for status, text in refusals.items()},
        },
    }


def _form(request: Schema) -> Schema:
    """A form, where the picture may also be a file."""
    image = request["properties"]["image"]
    image = image | {"anyOf": [BYTES, *image["anyOf"]]}
    return request | {"title": "ClipForm", "properties": request["properties"] | {"image": image}}


def _opening() -> Schema:
    pictures = {kind: {"schema": BYTES} for kind in ("image/png", "image/jpeg")}
    operation = _get("A picture that the model comes with.", ok=pictures)
    operation["parameters"] = [
        {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}
    ]
    missing = {"text/plain": {"schema": {"type": "string"}}}
    operation["responses"]["404"] = _answer("There is no opening of this name.", missing)
    return operation


def _health() -> Schema:
    operation = _get(first_line(Health.__doc__), ok=_json("Health"))
    operation["responses"]["503"] = _answer("The world is warming up.", _json("Health"))
    return operation


def _get(summary: str, *, ok: Schema) -> Schema:
    return {"summary": summary, "responses": {"200": _answer(summary, ok)}}


def _answer(description: str, content: Schema) -> Schema:
    return {"description": description, "content": content}


def _json(name: str) -> Schema:
    return {"application/json": {"schema": refer(name)}}


def _document() -> Schema:
    return {"application/json": {"schema": {"type": "object"}}}
