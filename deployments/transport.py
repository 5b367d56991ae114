"""The transport deployment: sockets, controls, pacing and codecs, on replicas without a GPU."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct
from ray import serve
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle
from starlette.applications import Starlette

from deployments.config import ServiceConfig, parse_user_config
from deployments.fork_store import ClusterForks
from deployments.observability.fan_out import FanOut
from deployments.observability.logs import configure_logging
from deployments.observability.session_metrics import ResumeMetrics, TransportMetrics
from deployments.observability.session_reports import SessionReports
from deployments.observability.tracing import Tracing, create_provider
from deployments.prompt_encoder import PromptEncoder
from deployments.saved_world import warn_of_large_worlds
from deployments.serve_middleware import add_serve_middleware
from deployments.session_list import SessionCollector
from deployments.token_usage import ClusterUsage
from deployments.world import ClusterWorld
from lingbot.config import PRESETS, SIZE_MULTIPLE
from transport.access import Access
from transport.app import build_app
from transport.image_fetcher import ImageFetcher
from transport.observer import Observer
from transport.tokens import Tokens
from transport.wire.world import Opening, WorldInfo


class Transport:
    """Ray Serve creates one per replica. A plain class; `build` makes it a deployment."""

    def __init__(
        self,
        config: ServiceConfig,
        group: DeploymentHandle[Any],
        text_encoder: DeploymentHandle[Any] | None = None,
        *,
        token_usage: DeploymentHandle[Any] | None = None,
        fork_store: DeploymentHandle[Any] | None = None,
    ) -> None:
        """`text_encoder` is None where the ranks encode the prompts themselves.

        `token_usage` is None where no token is needed, and `fork_store` where no world is stored.
        Raises TokenFileError.
        """
        configure_logging(config.log_format)
        self._access = Access(
            allowed_origins=config.allowed_origins,
            tokens=None if config.access is None else Tokens(config.access),
            usage=None if token_usage is None else ClusterUsage(token_usage),
        )
        replica = replica_name()
        reports = SessionReports(transport=replica)
        self._observer = create_observer(config, reports, replica=replica)
        self._collector = SessionCollector(group.app_name)
        prompts = None if text_encoder is None else PromptEncoder(text_encoder, config)
        forks = None
        if fork_store is not None:
            forks = ClusterForks(fork_store, ttl_s=config.fork_ttl_s)
        self._own = follow_own_replicas()
        self._world = ClusterWorld(
            group,
            world_info(config),
            config,
            prompts=prompts,
            forks=forks,
            report=reports.get,
            on_resume=ResumeMetrics().count,
            replica=None if self._own is None else (self._own.deployment_name, replica),
        )
        self._config = config
        self._limits = config.limits

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Serve awaits this with `user_config`, at the start and whenever it changes.

        The limits hold for new sockets and requests. `closing` ends all worlds with that reason.
        """
        live = parse_user_config(user_config)
        self._limits = self._world.limits = live.limits or self._config.limits
        warn_of_large_worlds(self._config, self._limits)
        self._world.close(live.closing)

    def __serve_build_asgi_app__(self) -> Starlette:
        config = self._config
        app = add_serve_middleware(
            build_app(
                self._world,
                limits=lambda: self._limits,
                access=self._access,
                fetcher=ImageFetcher(config.image_hosts),
                observer=self._observer,
                list_sessions=self._collector.collect,
                operator_token_file=config.operator_token_file,
            )
        )
        lifespan = app.router.lifespan_context

        @asynccontextmanager
        async def finish_at_end(app: Starlette) -> AsyncIterator[Any]:
            async with lifespan(app) as state:
                yield state
                await self._world.finish()  # Serve ends the lifespan of a replica that has drained

        app.router.lifespan_context = finish_at_end
        return app


def replica_name() -> str:
    """The id of this replica of Serve's; outside of Serve, `local`."""
    try:
        return str(serve.get_replica_context().replica_id.unique_id)
    except RayServeException:
        return "local"


def follow_own_replicas() -> DeploymentHandle[Any] | None:
    """A handle to this replica's own deployment; outside of Serve, None.

    It is never called. Its router learns that this replica drains.
    """
    try:
        context = serve.get_replica_context()
    except RayServeException:
        return None
    own: DeploymentHandle[Any] = DeploymentHandle(context.deployment, context.app_name)
    return own.options()  # creates the router


def create_observer(config: ServiceConfig, reports: SessionReports, *, replica: str) -> FanOut:
    """The observer of all clients of this process. Raises ConfigError; see `create_provider`."""
    observers: list[Observer] = [TransportMetrics(), reports]
    if config.otlp_endpoint is not None:
        observers.append(Tracing(create_provider(config.otlp_endpoint, instance=replica)))
    return FanOut(observers)


def world_info(config: ServiceConfig) -> WorldInfo:
    """The properties of the served worlds, from the config alone, without weights."""
    openings, world = PRESETS[config.preset].openings, config.world
    return WorldInfo(
        preset=world.name,
        sizes=tuple((size.width, size.height) for size in world.sizes),
        size_multiple=SIZE_MULTIPLE,
        max_pixels=world.largest_size.num_pixels,
        fps=world.fps,
        chunk_latent_frames=world.chunk,
        first_chunk_frames=world.first_chunk_frames,
        chunk_frames=world.chunk_frames,
        max_window=world.window,
        sink=world.sink,
        max_steps=world.max_steps,
        openings=() if openings is None else load_openings(openings),
        encodes_prompts=config.has_text_encoder,
        resume_grace_s=config.resume_grace_s,
    )


class OpeningFile(Struct, frozen=True):
    """An entry of openings.json."""

    name: str
    file: str  # relative to openings.json
    prompt: str


def load_openings(path: Path) -> tuple[Opening, ...]:
    """The openings that an openings.json lists."""
    entries = msgspec.json.decode(path.read_bytes(), type=list[OpeningFile])
    return tuple(
        Opening(name=entry.name, prompt=entry.prompt, image=(path.parent / entry.file).read_bytes())
        for entry in entries
    )
