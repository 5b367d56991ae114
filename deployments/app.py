"""The application that `import_path` of serve_config.yaml names."""

from typing import Any

from ray import serve
from ray.serve import Application

from deployments.config import parse_args
from deployments.text_encoder import TextEncoder
from deployments.token_usage import TokenUsage
from deployments.transport import Transport
from deployments.world_group import WorldGroup

# Not for the config to change: one replica counts for all, and its calls last as long as sessions.
TOKEN_USAGE = serve.deployment(
    name="TokenUsage",
    num_replicas=1,
    max_ongoing_requests=1_000_000,
    ray_actor_options={"num_cpus": 0},
    graceful_shutdown_timeout_s=1,  # the transports repeat their counts to the next replica
)(TokenUsage)


def build(args: dict[str, Any]) -> Application:
    """The deployment graph. Raises ConfigError with the path of the wrong key."""
    config = parse_args(args)
    router = {"request_router_class": "deployments.router.FewestOngoingRouter"}
    group = serve.deployment(name="WorldGroup", request_router_config=router)(WorldGroup)
    transport = serve.deployment(name="Transport")(serve.ingress()(Transport))
    deployments = [group.bind(config)]
    if config.has_text_encoder:
        deployments.append(serve.deployment(name="TextEncoder")(TextEncoder).bind(config))
    usage = None if config.access is None else TOKEN_USAGE.bind()
    application: Application = transport.bind(config, *deployments, token_usage=usage)
    return application
