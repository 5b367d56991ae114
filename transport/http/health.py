"""`GET /healthz`: the process. `GET /readyz` and `GET /health`: the world, and the event loop."""

from typing import Literal

import msgspec
from msgspec import Struct
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from transport.event_loop_lag import EventLoopLag, EventLoopLagStats
from transport.paths import HEALTH_PATH, HEALTHZ_PATH, READYZ_PATH
from transport.wire.errors import WorldFailed
from transport.wire.world import World


class Health(Struct, frozen=True, kw_only=True):
    """Readiness of the world, and the latency of the event loop."""

    status: Literal["ready", "warming", "failed"]
    reason: str | None  # why it failed, else null
    loop_lag_ms: EventLoopLagStats | None  # null before the first sample


def health_routes(world: World, lag: EventLoopLag) -> list[Route]:
    """The process is healthy while its event loop turns. Readiness is the world's.

    `/readyz` and `/health` answer 200 while a world can be opened without a warm-up, else 503.
    """

    async def healthz(request: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readiness(request: Request) -> Response:
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

    return [
        Route(HEALTHZ_PATH, healthz),
        Route(READYZ_PATH, readiness),
        Route(HEALTH_PATH, readiness),
    ]
