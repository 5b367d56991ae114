"""The application that `import_path` of serve_config.yaml names."""

from typing import Any

from ray import serve
from ray.serve import Application

from deployments.config import parse_args
from deployments.fork_store import ForkStore
from deployments.text_encoder import TextEncoder
from deployments.token_usage import TokenUsage
from deployments.transport import Transport
from deployments.world_group import WorldGroup

# Not for the config to change: one replica counts for all, and its calls last as long as sessions.
TOKEN_USAGE = serve.deployment(
    name="TokenUsage",
    num_replicas=1,
    max_ongoing_requests=1_000_000,
    graceful_shutdown_timeout_s=1,  # the transports repeat their counts to the next replica
)(TokenUsage)

# One replica keeps the worlds of all transports.
FORK_STORE = serve.deployment(
    name="ForkStore",
    num_replicas=1,
    max_ongoing_requests=1000,
    graceful_shutdown_timeout_s=1,
)(ForkStore)
ROUTERS = "deployments.router"


def build(args: dict[str, Any]) -> Application:
    """The deployment graph. Raises ConfigError with the path of the wrong key."""
    config = parse_args(args)
    group = serve.deployment(
        name="WorldGroup",
        request_router_config={"request_router_class": f"{ROUTERS}.FewestOngoingRouter"},
    )(WorldGroup)
    transport = serve.deployment(
        name="Transport", request_router_config={"request_router_class": f"{ROUTERS}.SocketRouter"}
    )(serve.ingress()(Transport))
    deployments = [group.bind(config)]
    if config.has_text_encoder:
        deployments.append(serve.deployment(name="TextEncoder")(TextEncoder).bind(config))
    usage = forks = None
    options = {"num_cpus": 0, "resources": config.singleton_resources}
    if config.access is not None:
        usage = TOKEN_USAGE.options(ray_actor_options=options).bind()
    if config.fork_store_bytes:
        store = FORK_STORE.options(ray_actor_options=options)
        forks = store.bind(budget_bytes=config.fork_store_bytes, ttl_s=config.fork_ttl_s)
    application: Application = transport.bind(
        config, *deployments, token_usage=usage, fork_store=forks
    )
    return application
