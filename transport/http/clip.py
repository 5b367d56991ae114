"""`POST /v1/clips`: checks a request for one clip against the world. `ClipResponse` answers it."""

import logging
from collections.abc import Callable, Sequence
from functools import partial

import anyio
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from transport.codecs.image import decode_image
from transport.codecs.payload import Frame
from transport.http.clip_request import ClipRequest, read_clip_request
from transport.http.clip_response import ClipResponse
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

    `fetcher` fetches an image that is a URL; None: no URL is fetched.
    """
    client = client_of(request.headers, kind="clip", token=request.scope.get(TOKEN_KEY))
    session = (observer or NoObserver()).connected(client, anyio.current_time())
    try:
        fields, upload = await read_clip_request(request, limits=limits)
        actions = parse_actions(fields.actions, max_latent_frames=limits.max_clip_latent_frames)
        source = upload or fields.image
        if source is None and not world.info.openings:
            raise BadMessage("missing required field `image`", code="missing_field", field="image")
        spec = _read_spec(fields, world.info, has_image=source is not None)
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
    image = _load_image(
        world.info.openings[0].image if source is None else source,
        sizes=read_sizes(fields.size, world.info),
        capacity=capacity,
        fetcher=fetcher or ImageFetcher(),
    )
    return ClipResponse(
        world,
        spec,
        image,
        actions,
        capacity=capacity,
        timeout_s=limits.ack_timeout_s,
        warnings=warn_of_size(fields.size, served=f"{spec.width}x{spec.height}"),
        client=client,
        observer=session,
    )


def _read_spec(fields: ClipRequest, info: WorldInfo, *, has_image: bool) -> WorldSpec:
    if fields.format != "mp4":
        raise BadMessage(
            f"`format`: {quote(fields.format)} is unknown, expected 'mp4'", field="format"
        )
    width, height = read_sizes(fields.size, info)[0]
    return WorldSpec(
        prompt=read_prompt(fields.prompt, info, has_image=has_image),
        seed=read_seed(fields.seed),
        width=width,
        height=height,
        num_steps=read_steps(fields.num_inference_steps, info),
        realtime=False,
    )


async def _load_image(
    source: bytes | str, *, sizes: Sequence[Size], capacity: CapacityLimits, fetcher: ImageFetcher
) -> Frame:
    """The first frame from an image or its URL. Raises BadMessage."""
    source = await fetcher.fetch(source, field="image")
    decode = partial(decode_image, source, sizes=sizes, field="image")
    return await run_in_worker(decode, limiter=capacity.decode_image)
