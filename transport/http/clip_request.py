"""The body of `POST /v1/clips`: JSON or a form. Every field is known and is given once."""

import json
from collections.abc import Iterable
from urllib.parse import quote_from_bytes

import anyio
import msgspec
from msgspec import Raw, Struct
from python_multipart.multipart import parse_options_header
from starlette.datastructures import QueryParams, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import Message

from transport.wire.decoding import explain
from transport.wire.errors import BadMessage, TooLarge, quote, unknown_name
from transport.wire.limits import ClientLimits
from transport.wire.messages import Positive, Prompt, Seed

JSON = "application/json"
URL_FORM = "application/x-www-form-urlencoded"
FORMS = ("multipart/form-data", URL_FORM)
CHARSETS = ("utf-8", "utf8", "us-ascii")
ASCII = bytes(range(128))
MAX_LENGTH_DIGITS = 20  # more than any real Content-Length has
MAX_JSON_QUOTES = 10_000  # more than any request has; a parser takes a second for millions


class ClipRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The fields of every body type; a form may carry an image or a snapshot as a file instead."""

    actions: str  # "w-6,wl-4,none-2"
    image: str | None = None  # base64, a data URL, or an https URL of a listed host
    snapshot: str | None = None  # base64; in place of `image`, `seed`, `size` and the steps
    prompt: Prompt | None = None
    seed: Seed | None = None
    size: str | None = None
    num_inference_steps: Positive | None = None
    format: str = "mp4"


FIELDS = ClipRequest.__struct_fields__
FILES = ("image", "snapshot")  # fields that may be files of a form
EXPECTED = {"image": "an image", "snapshot": "a saved world"}

Uploads = dict[str, bytes]  # by field


async def read_clip_request(
    request: Request, *, limits: ClientLimits
) -> tuple[ClipRequest, Uploads]:
    """The fields, and the bytes of uploaded files.

    Raises BadMessage, TooLarge, or ClientDisconnect for a client that leaves before the end.
    """
    body = await _read_body(request, limits=limits)
    for name in QueryParams(request.scope.get("query_string", b"")):
        raise BadMessage(f"{quote(name)} is a query parameter, expected all fields in the body")
    try:
        media_type = _read_media_type(request)
        if media_type == JSON:
            return _read_json(body), {}
        if media_type == URL_FORM:
            # curl's -d leaves text as it is, which Starlette takes for Latin-1
            body = quote_from_bytes(body, safe=ASCII).encode()
        return await _read_form(request, body)
    except msgspec.ValidationError as exc:
        raise explain(str(exc)) from exc


async def _read_body(request: Request, *, limits: ClientLimits) -> bytes:
    """The whole body. It has as much time as the inits of a socket."""
    too_large = TooLarge(f"the body is too large, expected at most {limits.max_clip_bytes} bytes")
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced[:MAX_LENGTH_DIGITS]) > limits.max_clip_bytes:
        raise too_large
    body = bytearray()
    with anyio.move_on_after(limits.init_timeout_s):
        async for piece in request.stream():
            body += piece
            if len(body) > limits.max_clip_bytes:
                raise too_large
        return bytes(body)
    raise BadMessage(
        f"the body stopped after {len(body)} bytes, "
        f"expected all of it within {limits.init_timeout_s:g} s",
        code="timeout",
    )


def _read_media_type(request: Request) -> str:
    """The body's media type. Raises BadMessage if the headers name none that can be read."""
    coding = request.headers.get("content-encoding", "identity")
    if coding.lower() != "identity":
        raise BadMessage(
            f"the body's content encoding is {quote(coding)}, expected none", code="malformed"
        )
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    media_type = kind.decode("latin-1")
    if media_type not in (JSON, *FORMS):
        raise BadMessage(
            f"the body's content type is {quote(media_type)}, "
            f"expected {JSON} or a form: {' or '.join(FORMS)}",
            code="malformed",
        )
    charset = options.get(b"charset", b"utf-8").decode("latin-1")
    if charset.lower() not in CHARSETS:
        raise BadMessage(
            f"the body's charset is {quote(charset)}, expected 'utf-8'", code="malformed"
        )
    return media_type


def _read_json(body: bytes) -> ClipRequest:
    if body.count(b'"') > MAX_JSON_QUOTES:
        raise BadMessage(
            f"the body has too many texts, expected one object with the fields {', '.join(FIELDS)}",
            code="malformed",
        )
    try:
        _check_known(msgspec.json.decode(body, type=dict[str, Raw]))
        # Not strict, so that JSON takes what a form can hold.
        fields = msgspec.json.decode(body, type=ClipRequest, strict=False)
        # msgspec keeps the last of repeated names. No other value of `fields` is an object.
        json.loads(body, object_pairs_hook=lambda pairs: _check_once(name for name, _ in pairs))
    except msgspec.ValidationError:
        raise
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise BadMessage(f"the body is not JSON: {exc}", code="malformed") from exc
    return fields


async def _read_form(request: Request, body: bytes) -> tuple[ClipRequest, Uploads]:
    async def replay() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    _check_end(request, body)
    try:
        form = await Request(request.scope, replay).form(max_part_size=len(body) + 1)
    except HTTPException as exc:  # Starlette's answer to a body that its header does not describe
        raise BadMessage(f"the body is not a form: {exc.detail}", code="malformed") from exc
    uploads: Uploads = {}
    fields: dict[str, str] = {}
    try:
        _check_known(form)
        _check_once(name for name, _ in form.multi_items())
        for name, value in form.items():
            if not isinstance(value, UploadFile):
                _check_text(name, value, body)
                fields[name] = value
            elif name in FILES:
                uploads[name] = await value.read()
                _check_upload(name, value, uploads[name])
            else:
                raise BadMessage(f"`{name}` is a file, expected text", field=name)
    finally:
        await form.close()
    for name in FILES:
        if fields.get(name) == "":
            raise BadMessage(f"`{name}` is empty, expected {EXPECTED[name]}", field=name)
    # A form sends its empty inputs, too: they count as absent.
    fields = {name: value for name, value in fields.items() if value}
    uploads = {name: data for name, data in uploads.items() if data}
    return msgspec.convert(fields, ClipRequest, strict=False), uploads


def _check_end(request: Request, body: bytes) -> None:
    """Raises BadMessage for a multipart form without its end: the parser drops its last part."""
    kind, options = parse_options_header(request.headers["content-type"])
    boundary = options.get(b"boundary")
    is_multipart = kind.decode("latin-1") != URL_FORM
    if is_multipart and boundary and b"--" + boundary + b"--" not in body:
        end = quote(f"--{boundary.decode('latin-1')}--")
        raise BadMessage(
            f"the body is not a form: its end is missing, expected {end}",
            code="malformed",
        )


def _check_text(name: str, text: str, body: bytes) -> None:
    """Raises BadMessage for bytes that are not UTF-8. Starlette replaces them, or guesses."""
    is_guess = not body.isascii() and text.encode() not in body
    if is_guess or "\ufffd" in text:
        raise BadMessage(f"`{name}` is in another charset, expected UTF-8", field=name)


def _check_upload(name: str, file: UploadFile, data: bytes) -> None:
    """Raises BadMessage for an empty file. A browser sends one without a name for no file."""
    if file.filename and not data:
        raise BadMessage(
            f"`{name}`: the file {quote(file.filename)} is empty, expected {EXPECTED[name]}",
            field=name,
        )


def _check_known(names: Iterable[str]) -> None:
    for name in names:
        if name not in FIELDS:
            raise unknown_name(name, FIELDS)


def _check_once(names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise BadMessage(f"`{name}` is given more than once, expected one value", field=name)
        seen.add(name)
