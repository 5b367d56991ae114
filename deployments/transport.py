"""The transport deployment: sockets, controls, pacing and codecs, on replicas without a GPU."""

from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct
from ray import serve
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle
from starlette.applications import Starlette

from deployments.config import ServiceConfig, parse_user_config
from deployments.lease import LeasedWorld
from deployments.observability.fan_out import FanOut
from deployments.observability.logs import configure_logging
from deployments.observability.session_metrics import TransportMetrics
from deployments.observability.session_reports import SessionReports
from deployments.observability.tracing import Tracing, create_provider
from deployments.prompt_encoder import PromptEncoder
from deployments.serve_middleware import add_serve_middleware
from deployments.session_list import SessionCollector
from lingbot.config import PRESETS, SIZE_MULTIPLE
from transport.app import build_app
from transport.image_fetcher import ImageFetcher
from transport.observer import Observer
from transport.wire.world import Opening, WorldInfo


class Transport:
    """Ray Serve creates one per replica. A plain class; `build` makes it a deployment."""

    def __init__(
        self,
        config: ServiceConfig,
        group: DeploymentHandle[Any],
        text_encoder: DeploymentHandle[Any] | None = None,
    ) -> None:
        """`text_encoder` is None where the ranks encode the prompts themselves."""
        configure_logging(config.log_format)
        replica = replica_name()
        reports = SessionReports(transport=replica)
        self._observer = create_observer(config, reports, replica=replica)
        self._collector = SessionCollector(group.app_name)
        prompts = None if text_encoder is None else PromptEncoder(text_encoder, config)
        self._world = LeasedWorld(
            group, world_info(config), config, prompts=prompts, report=reports.get
        )
        self._config = config
        self._limits = config.limits

    def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Serve calls this with `user_config`, at the start and whenever it changes.

        The limits hold for new sockets and requests.
        """
        self._limits = parse_user_config(user_config).limits

    def __serve_build_asgi_app__(self) -> Starlette:
        config, token_file = self._config, self._config.operator_token_file
        return add_serve_middleware(
            build_app(
                self._world,
                limits=lambda: self._limits,
                cors_origins=config.cors_origins,
                fetcher=ImageFetcher(config.image_hosts),
                observer=self._observer,
                list_sessions=self._collector.collect,
                operator_token_file=None if token_file is None else Path(token_file),
            )
        )


def replica_name() -> str:
    """The id of this replica of Serve's; outside of Serve, `local`."""
    try:
        return str(serve.get_replica_context().replica_id.unique_id)
    except RayServeException:
        return "local"


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
