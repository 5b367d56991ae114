"""The end of all worlds of a cluster, with a reason for their clients. No replica is replaced."""

import time
from typing import Any

from ray.serve.context import _get_global_client
from ray.serve.schema import (  # type: ignore[attr-defined]
    DeploymentStatus,
    ServeDeploySchema,
)

# Replicas have nothing left to drain then. Transport is last, so that sockets outlive the worlds.
DRAIN_S = 2.0
TRANSPORT_DRAIN_S = 4.0
POLL_S = 0.1


def close_worlds(reason: str, *, timeout_s: float) -> None:
    """Close every socket and clip with `reason`, and let no replica drain for long.

    Returns when all replicas with sockets know it, or after `timeout_s`.
    """
    client: Any = _get_global_client()
    details = client.get_serve_details()
    applications = [
        closing(application["deployed_app_config"], reason)
        for application in details["applications"].values()
        if application["deployed_app_config"]
    ]
    client.deploy_apps(ServeDeploySchema.model_validate({"applications": applications}))
    # A group is not waited for: it may never find a node, and it has no session left to drain.
    with_sockets = [only_transport(application) for application in applications]
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        time.sleep(POLL_S)
        if has_arrived(client.get_serve_details(), with_sockets):
            return


def closing(application: dict[str, Any], reason: str) -> dict[str, Any]:
    """An application's config with worlds that end for `reason`, and replicas that stop soon."""
    deployments = []
    for deployment in application["deployments"]:
        changed = dict(deployment)
        changed["graceful_shutdown_timeout_s"] = DRAIN_S
        changed["graceful_shutdown_wait_loop_s"] = POLL_S
        if deployment["name"] == "Transport":
            changed["graceful_shutdown_timeout_s"] = TRANSPORT_DRAIN_S
            changed["user_config"] = (deployment.get("user_config") or {}) | {"closing": reason}
        deployments.append(changed)
    return application | {"deployments": deployments}


def only_transport(application: dict[str, Any]) -> dict[str, Any]:
    """An application's config without its other deployments."""
    transports = [one for one in application["deployments"] if one["name"] == "Transport"]
    return application | {"deployments": transports}


def has_arrived(details: dict[str, Any], applications: list[dict[str, Any]]) -> bool:
    """True once the replicas have these drain times, and what was deployed with them.

    `details` are Serve's own. A deployment is not healthy while its replicas get a new config.
    """
    for application in applications:
        deployments = details["applications"][application["name"]]["deployments"]
        for deployment in application["deployments"]:
            present = deployments[deployment["name"]]
            drain_s = present["deployment_config"]["graceful_shutdown_timeout_s"]
            if drain_s != deployment["graceful_shutdown_timeout_s"]:
                return False
            if present["status"] != DeploymentStatus.HEALTHY:
                return False
    return True
