"""Resources of the replicas that Serve starts: is one coming up, or can no node ever hold it."""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

import ray
from ray.serve.schema import DeploymentStatusOverview
from ray.util import placement_group_table

from deployments.autoscaler import is_adding_node, may_add_nodes

Resources = Mapping[str, float]

# Serve's message about a replica that Ray has not placed for 30 s.
REQUIRED = re.compile(
    r"to be scheduled\..*Resources required for each replica: (.*?), total ", re.S
)
SHOWN = ("CPU", "GPU")  # of a node, beside those that are asked for
MAX_NODES = 4  # in a reason


def replicas_are_coming(application: str, name: str, num_starting: int) -> bool:
    """True if one of a deployment's starting replicas has its resources, or a node is being added.

    Asks the GCS.
    """
    num_waiting = sum(group["state"] == "PENDING" for group in groups_of(application, name))
    return num_starting > num_waiting or is_adding_node()


def why_unplaceable(application: str, name: str, status: DeploymentStatusOverview) -> str | None:
    """Why no node can ever hold a replica of a deployment; None if one can, or nodes may be added.

    Asks the GCS for nodes and placement groups, once Serve has waited for 30 s.
    """
    required = required_by(status.message)
    if required is None or may_add_nodes():
        return None
    groups = groups_of(application, name)
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return reason_for(name, required, groups, nodes)


def groups_of(application: str, name: str) -> list[Mapping[str, Any]]:
    """The placement groups of a deployment's replicas, from Ray's table."""
    prefix = f"SERVE_REPLICA::{application}#{name}#"
    return [group for group in placement_group_table().values() if group["name"].startswith(prefix)]


def required_by(message: str) -> list[Resources] | None:
    """The bundles that a replica waits for; one for a replica without a placement group."""
    if not (found := REQUIRED.search(message)):
        return None
    try:
        required = json.loads(found[1])
    except ValueError:  # "UNKNOWN"
        return None
    return required if isinstance(required, list) else [required]


def reason_for(
    name: str,
    required: list[Resources],
    groups: Iterable[Mapping[str, Any]],
    nodes: list[Resources],
) -> str | None:
    """The reason in one line; None if the nodes can hold the replica once others have gone.

    `groups` are the placement groups of the deployment's replicas, as Ray's table lists them.
    """
    fits_no_node = any(not any(fits(bundle, node) for node in nodes) for bundle in required)
    if not fits_no_node and not any(
        group["stats"]["scheduling_state"] == "INFEASIBLE" for group in groups
    ):
        return None
    asked = " and ".join(describe(bundle) for bundle in required)
    names = dict.fromkeys([*SHOWN, *(name for bundle in required for name in bundle)])
    found = [describe({name: node.get(name, 0) for name in names}) for node in nodes[:MAX_NODES]]
    more = f" and {len(nodes) - MAX_NODES} more" if len(nodes) > MAX_NODES else ""
    return (
        f"no node can hold a replica of {name}: it asks for {asked}, and there are nodes with "
        + (f"{'; '.join(found)}{more}")
    )


def fits(bundle: Resources, node: Resources) -> bool:
    return all(amount <= node.get(name, 0) for name, amount in bundle.items())


def describe(resources: Resources) -> str:
    return ", ".join(f"{amount:g} {name}" for name, amount in resources.items())
