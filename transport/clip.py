"""The world without a socket: one request, one MP4."""

import logging
from collections.abc import Sequence
from functools import partial

import msgspec
from anyio import to_thread
from msgspec import Struct
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Message

from transport.controls import parse_actions
from transport.errors import BadMessage, Busy, TooLarge, TransportError, WorldLost, quote
from transport.image import decode_first_frame
from transport.limits import Limits
from transport.messages import Positive, Prompt, Queued, Seed, Warming, error_message, explain
from transport.mp4 import Mp4Writer
from transport.protocol import DEFAULT_SEED, opening_prompt, read_size, read_steps
from transport.threads import Threads
from transport.world import World, WorldInfo, WorldSession, WorldSpec

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


async def clip(request: Request, world: World, *, limits: Limits, threads: Threads) -> Response:
    """`POST /v1/clips`: image, prompt, actions and seed to video/mp4."""
    try:
        wish, upload = await _read(request, max_bytes=limits.max_clip_bytes)
        max_latent_frames = limits.max_clip_latent_frames
        actions = parse_actions(wish.actions, max_latent_frames=max_latent_frames)
        spec = await _spec(wish, upload, world.info, threads)
        video = await _record(request, world, spec, actions, threads)
    except ClientDisconnect:
        logger.info("clip dropped: the client left")
        return Response(status_code=499)
    except TransportError as error:
        return _refusal(error)
    except Exception:
        logger.exception("a clip failed")
        return _refusal(TransportError("internal error"))
    return Response(video, media_type="video/mp4")


async def _read(request: Request, *, max_bytes: int) -> tuple[ClipRequest, bytes | None]:
    """The fields, and the bytes of an uploaded file."""
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
    except HTTPException as exc:  # Starlette's answer to a body that is not what its header says
        raise BadMessage(f"the body is not a form: {exc.detail}", code="malformed") from exc
    upload = None
    fields: dict[str, str] = {}
    for name, value in form.items():
        if not isinstance(value, UploadFile):
            check_text(value, field=name)
            fields[name] = value
        elif name == "image":
            upload = await value.read()
    await form.close()
    # An empty input of a form is one that was not filled in.
    fields = {name: value for name, value in fields.items() if value}
    return msgspec.convert(fields, ClipRequest, strict=False), upload or None


def check_text(text: str, *, field: str) -> None:
    """A form may name a charset that makes half a character, which no other machine takes."""
    try:
        text.encode()
    except UnicodeEncodeError as exc:
        raise BadMessage(f"`{field}`: expected Unicode text", field=field) from exc


async def _spec(
    wish: ClipRequest, upload: bytes | None, info: WorldInfo, threads: Threads
) -> WorldSpec:
    if wish.format != "mp4":
        raise BadMessage(f"`format`: {quote(wish.format)}, expected 'mp4'", field="format")
    width, height = read_size(wish.size, info)
    source = upload or wish.image
    if source is None:
        if not info.openings:
            raise BadMessage("missing required field `image`", code="missing_field", field="image")
        source = info.openings[0].image
    crop = partial(decode_first_frame, source, width=width, height=height, field="image")
    return WorldSpec(
        prompt=wish.prompt or opening_prompt(info),
        seed=DEFAULT_SEED if wish.seed is None else wish.seed,
        width=width,
        height=height,
        first_frame=await to_thread.run_sync(crop, limiter=threads.pictures),
        num_steps=read_steps(wish.num_inference_steps, info),
        window=None,
        sink=None,
    )


async def _record(
    request: Request,
    world: World,
    spec: WorldSpec,
    actions: Sequence[str],
    threads: Threads,
) -> bytes:
    session = await world.open(spec, on_wait=_no_news)
    logger.info("session %s opened: a clip of %d latent frames", session.id, len(actions))
    reason = "the client left"  # which may also be told by a cancellation
    try:
        video = await _film(request, session, world.info, spec, actions, threads)
        reason = "done"
        return video
    except ClientDisconnect:
        raise
    except Exception as exc:
        reason = str(exc) if isinstance(exc, TransportError) else "internal error"
        raise
    finally:
        session.close()
        logger.info("session %s closed: %s", session.id, reason)


async def _film(
    request: Request,
    session: WorldSession,
    info: WorldInfo,
    spec: WorldSpec,
    actions: Sequence[str],
    threads: Threads,
) -> bytes:
    """The actions filled up to whole chunks; the video cut to what was asked for."""
    size = info.chunk_latent_frames
    num_frames = 1 + info.chunk_frames // size * (len(actions) - 1)
    writer = Mp4Writer(width=spec.width, height=spec.height, fps=info.fps)
    for start in range(0, len(actions), size):
        if await request.is_disconnected():
            raise ClientDisconnect
        chunk = list(actions[start : start + size])
        # Nobody watches yet: whoever does is served first, for as long as a chunk lasts.
        pictures = await session.step(
            chunk + [""] * (size - len(chunk)), prompt=None, due_s=info.chunk_frames / info.fps
        )
        wanted = (await pictures)[: num_frames - writer.num_frames]
        await to_thread.run_sync(writer.add, wanted, limiter=threads.videos)
    return await to_thread.run_sync(writer.close, limiter=threads.videos)


async def _no_news(message: Queued | Warming) -> None:
    """An HTTP client learns nothing before the end."""


def _refusal(error: TransportError) -> Response:
    match error:
        case TooLarge():
            status = 413
        case Busy() | WorldLost():
            status = 503
        case _:
            status = 500 if error.code == "internal" else 400
    message = error_message(error)
    body = {"code": message.code, "content": message.content, "field": message.field}
    return Response(
        msgspec.json.encode({"error": body}), status_code=status, media_type="application/json"
    )
