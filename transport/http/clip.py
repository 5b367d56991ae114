"""`POST /v1/clips`: checks a request for one clip against the world. `ClipResponse` answers it."""

import base64
import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

import anyio
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from transport.codecs.image import decode_image
from transport.codecs.payload import Frame
from transport.http.clip_request import ClipRequest, Uploads, read_clip_request
from transport.http.clip_response import ClipResponse, NewWorld, SavedStart
from transport.http.error_response import error_response, status_of
from transport.image_fetcher import ImageFetcher
from transport.observer import (
    TOKEN_KEY,
    NoObserver,
    Observer,
    client_of,
)
from transport.paths import CLIPS_PATH
from transport.session_log import report_left, report_refused
from transport.wire.controls import parse_actions
from transport.wire.errors import BadMessage, TransportError, quote
from transport.wire.init import read_prompt, read_seed, read_sizes, read_steps, warn_of_size
from transport.wire.limits import ClientLimits
from transport.wire.world import Size, World, WorldInfo, WorldSpec
from transport.worker_limits import CapacityLimits, run_in_worker

logger = logging.getLogger(__name__)


def clip_route(
    world: World,
    *,
    limits: Callable[[], ClientLimits],
    capacity: CapacityLimits,
    fetcher: ImageFetcher,
    observer: Observer | None = None,
) -> Route:
    async def clips(request: Request) -> Response:
        return await clip(
            request,
            world,
            limits=limits(),
            capacity=capacity,
            fetcher=fetcher,
            observer=observer,
        )

    return Route(CLIPS_PATH, clips, methods=["POST"])


async def clip(
    request: Request,
    world: World,
    *,
    limits: ClientLimits,
    capacity: CapacityLimits,
    fetcher: ImageFetcher | None = None,
    observer: Observer | None = None,
) -> Response:
    """Image, prompt, actions and seed to video/mp4; a request that cannot be used to an error.

    A snapshot stands in place of image and seed.

    `fetcher` fetches an image that is a URL; None: no URL is fetched.
    """
    client = client_of(request.headers, kind="clip", token=request.scope.get(TOKEN_KEY))
    session = (observer or NoObserver()).connected(client, anyio.current_time())
    try:
        fields, uploads = await read_clip_request(request, limits=limits)
        actions = parse_actions(fields.actions, max_latent_frames=limits.max_clip_latent_frames)
        _check_format(fields)
        start: NewWorld | SavedStart
        if (data := uploads.get("snapshot") or fields.snapshot) is not None:
            start = await _read_saved(data, fields, uploads, world, capacity=capacity)
        else:
            load = partial(_load_image, capacity=capacity, fetcher=fetcher or ImageFetcher())
            start = _read_new(fields, uploads, world.info, load)
    except (ClientDisconnect, anyio.get_cancelled_exc_class()) as exc:
        report_left(client, session)
        if not isinstance(exc, ClientDisconnect):  # the server has noticed it first
            raise
        return Response(status_code=499)
    except Exception as exc:
        error = exc if isinstance(exc, TransportError) else TransportError("internal error")
        if error is not exc:
            logger.exception("a clip failed")
        report_refused(client, session, error, code=status_of(error))
        return error_response(error)
    return ClipResponse(
        world,
        start,
        actions,
        capacity=capacity,
        timeout_s=limits.ack_timeout_s,
        warnings=warn_of_size(fields.size, served=f"{start.spec.width}x{start.spec.height}"),
        client=client,
        observer=session,
    )


def _check_format(fields: ClipRequest) -> None:
    if fields.format != "mp4":
        raise BadMessage(
            f"`format`: {quote(fields.format)} is unknown, expected 'mp4'", field="format"
        )


def _read_new(
    fields: ClipRequest, uploads: Uploads, info: WorldInfo, load: Callable[..., Awaitable[Frame]]
) -> NewWorld:
    """A world from an image. Raises BadMessage."""
    source = uploads.get("image") or fields.image
    if source is None and not info.openings:
        raise BadMessage("missing required field `image`", code="missing_field", field="image")
    sizes = read_sizes(fields.size, info)
    width, height = sizes[0]
    spec = WorldSpec(
        prompt=read_prompt(fields.prompt, info, has_image=source is not None),
        seed=read_seed(fields.seed),
        width=width,
        height=height,
        num_steps=read_steps(fields.num_inference_steps, info),
        realtime=False,
    )
    image = load(info.openings[0].image if source is None else source, sizes=sizes)
    return NewWorld(spec=spec, image=image)


async def _read_saved(
    data: bytes | str,
    fields: ClipRequest,
    uploads: Uploads,
    world: World,
    *,
    capacity: CapacityLimits,
) -> SavedStart:
    """A world that goes on from a snapshot. Raises BadMessage, and Refused for a bad snapshot."""
    if isinstance(data, bytes) and fields.snapshot is not None:
        raise BadMessage("`snapshot` is given as a file and as text", field="snapshot")
    for name in ("image", "seed", "size", "num_inference_steps"):
        if name in uploads or getattr(fields, name) is not None:
            raise BadMessage(f"`{name}`: a snapshot has its own, expected none", field=name)
    if isinstance(data, str):
        try:
            data = base64.b64decode("".join(data.split()), validate=True)
        except ValueError:
            text = "`snapshot` is not valid base64, expected a saved world's base64, or its file"
            raise BadMessage(text, field="snapshot") from None
    read = partial(world.read_snapshot, data)
    saved = await run_in_worker(read, limiter=capacity.decode_image)
    spec = WorldSpec(
        prompt=saved.prompt,
        seed=saved.seed,
        width=saved.width,
        height=saved.height,
        num_steps=saved.num_steps,
        realtime=False,
    )
    return SavedStart(spec=spec, saved=saved, prompt=fields.prompt or None)


async def _load_image(
    source: bytes | str, *, sizes: Sequence[Size], capacity: CapacityLimits, fetcher: ImageFetcher
) -> Frame:
    """The first frame from an image or its URL. Raises BadMessage."""
    source = await fetcher.fetch(source, field="image")
    decode = partial(decode_image, source, sizes=sizes, field="image")
    return await run_in_worker(decode, limiter=capacity.decode_image)
