"""`POST /v1/clips`: reads and checks a request for one clip. `ClipResponse` answers it."""

import logging
from functools import partial

import msgspec
from msgspec import Struct
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Message

from transport.codecs.image import decode_image
from transport.codecs.payload import Frame
from transport.http.clip_response import ClipResponse, error_response
from transport.paths import CLIPS_PATH
from transport.wire.controls import parse_actions
from transport.wire.errors import BadMessage, TooLarge, TransportError, quote
from transport.wire.init import DEFAULT_SEED, read_prompt, read_size, read_steps
from transport.wire.limits import ClientLimits
from transport.wire.messages import Positive, Prompt, Seed, explain
from transport.wire.world import World, WorldInfo, WorldSpec
from transport.worker_limits import CapacityLimits, run_in_worker

logger = logging.getLogger(__name__)


class ClipRequest(Struct, frozen=True, kw_only=True):
    """The fields of every body type; a form may carry `image` as a file instead."""

    actions: str  # "w-6,wl-4,none-2"
    image: str | None = None  # base64 or a data URL
    prompt: Prompt | None = None
    seed: Seed | None = None
    size: str | None = None
    num_inference_steps: Positive | None = None
    format: str = "mp4"


def clip_route(world: World, *, limits: ClientLimits, capacity: CapacityLimits) -> Route:
    async def clips(request: Request) -> Response:
        return await clip(request, world, limits=limits, capacity=capacity)

    return Route(CLIPS_PATH, clips, methods=["POST"])


async def clip(
    request: Request, world: World, *, limits: ClientLimits, capacity: CapacityLimits
) -> Response:
    """Image, prompt, actions and seed to video/mp4; a request that cannot be used to an error."""
    try:
        fields, upload = await _read(request, max_bytes=limits.max_clip_bytes)
        max_latent_frames = limits.max_clip_latent_frames
        actions = parse_actions(fields.actions, max_latent_frames=max_latent_frames)
        source = upload or fields.image
        if source is None and not world.info.openings:
            raise BadMessage("missing required field `image`", code="missing_field", field="image")
        spec = _read_spec(fields, world.info, has_image=source is not None)
        image = await _decode_image(source, spec=spec, info=world.info, capacity=capacity)
    except ClientDisconnect:
        logger.info("clip dropped: the client left")
        return Response(status_code=499)
    except TransportError as error:
        return error_response(error)
    except Exception:
        logger.exception("a clip failed")
        return error_response(TransportError("internal error"))
    return ClipResponse(
        world, spec, image, actions, capacity=capacity, timeout_s=limits.ack_timeout_s
    )


async def _read(request: Request, *, max_bytes: int) -> tuple[ClipRequest, bytes | None]:
    """The fields, and the bytes of an uploaded file. Raises TooLarge or BadMessage."""
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > max_bytes:
            raise TooLarge(f"the body is too large, expected at most {max_bytes} bytes")
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    try:
        if kind == "application/json":
            return msgspec.json.decode(body, type=ClipRequest), None
        if kind in ("multipart/form-data", "application/x-www-form-urlencoded"):
            return await _read_form(request, bytes(body))
    except msgspec.ValidationError as exc:
        raise explain(str(exc)) from exc
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise BadMessage(f"the body is not JSON: {exc}", code="malformed") from exc
    raise BadMessage(
        "the body's content type must be multipart/form-data, "
        "application/x-www-form-urlencoded or application/json",
        code="malformed",
    )


async def _read_form(request: Request, body: bytes) -> tuple[ClipRequest, bytes | None]:
    async def replay() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    try:
        form = await Request(request.scope, replay).form(max_part_size=len(body) + 1)
    except HTTPException as exc:  # Starlette's answer to a body that its header does not describe
        raise BadMessage(f"the body is not a form: {exc.detail}", code="malformed") from exc
    upload = None
    fields: dict[str, str] = {}
    try:
        for name, value in form.items():
            if not isinstance(value, UploadFile):
                check_text(value, field=name)
                fields[name] = value
            elif name == "image":
                upload = await value.read()
    finally:
        await form.close()
    # A form sends its empty inputs, too: they count as absent.
    fields = {name: value for name, value in fields.items() if value}
    return msgspec.convert(fields, ClipRequest, strict=False), upload or None


def check_text(text: str, *, field: str) -> None:
    """Raises BadMessage for text that UTF-8 cannot encode.

    A form may name a charset that yields half a surrogate pair; other services refuse such text.
    """
    try:
        text.encode()
    except UnicodeEncodeError as exc:
        raise BadMessage(f"`{field}`: expected Unicode text", field=field) from exc


def _read_spec(fields: ClipRequest, info: WorldInfo, *, has_image: bool) -> WorldSpec:
    if fields.format != "mp4":
        raise BadMessage(
            f"`format`: {quote(fields.format)} is unknown, expected 'mp4'", field="format"
        )
    width, height = read_size(fields.size, info)
    return WorldSpec(
        prompt=read_prompt(fields.prompt, info, has_image=has_image),
        seed=DEFAULT_SEED if fields.seed is None else fields.seed,
        width=width,
        height=height,
        num_steps=read_steps(fields.num_inference_steps, info),
    )


async def _decode_image(
    source: bytes | str | None, *, spec: WorldSpec, info: WorldInfo, capacity: CapacityLimits
) -> Frame:
    """The first frame, from `source` or the first opening. Raises BadMessage."""
    if source is None:
        source = info.openings[0].image
    decode = partial(decode_image, source, width=spec.width, height=spec.height, field="image")
    return await run_in_worker(decode, limiter=capacity.decode_image)
