"""`GET /health`: readiness of the world, and latency of the event loop."""

from typing import Literal

import msgspec
from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from transport.event_loop_lag import EventLoopLag, EventLoopLagStats
from transport.paths import HEALTH_PATH
from transport.wire.errors import WorldFailed
from transport.wire.world import World


class Health(Struct, frozen=True, kw_only=True):
    """Readiness of the world, and the latency of the event loop."""

    status: Literal["ready", "warming", "failed"]
    reason: str | None  # why it failed, else null
    loop_lag_ms: EventLoopLagStats | None  # null before the first sample


def health_route(world: World, lag: EventLoopLag) -> Route:
    """200 while a world can be opened without a warm-up, 503 otherwise."""

    async def health(request: Request) -> Response:
        status: Literal["ready", "warming", "failed"]
        reason = None
        try:
            status = "ready" if await world.ready() else "warming"
        except WorldFailed as exc:
            status, reason = "failed", str(exc)
        body = Health(status=status, reason=reason, loop_lag_ms=lag.stats())
        return Response(
            msgspec.json.encode(body),
            status_code=200 if status == "ready" else 503,
            media_type="application/json",
        )

    return Route(HEALTH_PATH, health)
