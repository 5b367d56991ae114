"""The application that `import_path` of serve_config.yaml names."""

from typing import Any

from ray import serve
from ray.serve import Application
from ray.serve.config import RequestRouterConfig

from deployments.config import parse_args
from deployments.router import FewestOngoingRouter
from deployments.text_encoder import TextEncoder
from deployments.transport import Transport
from deployments.world_group import WorldGroup


def build(args: dict[str, Any]) -> Application:
    """The deployment graph. Raises ConfigError with the path of the wrong key."""
    config = parse_args(args)
    router = RequestRouterConfig(request_router_class=FewestOngoingRouter)
    group = serve.deployment(name="WorldGroup", request_router_config=router)(WorldGroup)
    transport = serve.deployment(name="Transport")(serve.ingress()(Transport))
    deployments = [group.bind(config)]
    if config.has_text_encoder:
        deployments.append(serve.deployment(name="TextEncoder")(TextEncoder).bind(config))
    application: Application = transport.bind(config, *deployments)
    return application
