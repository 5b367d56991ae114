"""Replicas for which no node of the cluster has the resources, and none will come."""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

import ray
from ray.autoscaler.v2.utils import is_autoscaler_v2
from ray.experimental.internal_kv import _internal_kv_get
from ray.serve.schema import DeploymentStatusOverview
from ray.util import placement_group_table

Resources = Mapping[str, float]

# Serve's message about a replica that Ray has not placed for 30 s.
REQUIRED = re.compile(
    r"to be scheduled\..*Resources required for each replica: (.*?), total ", re.S
)
SHOWN = ("CPU", "GPU")  # of a node, beside those that are asked for
MAX_NODES = 4  # in a reason


def why_unplaceable(application: str, name: str, status: DeploymentStatusOverview) -> str | None:
    """Why no node can ever hold a replica of a deployment; None if one can, or nodes may be added.

    Asks the GCS for nodes and placement groups, once Serve has waited for 30 s.
    """
    required = required_by(status.message)
    if required is None or adds_nodes():
        return None
    prefix = f"SERVE_REPLICA::{application}#{name}#"
    groups = [
        group for group in placement_group_table().values() if group["name"].startswith(prefix)
    ]
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return reason_for(name, required, groups, nodes)


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


def adds_nodes() -> bool:
    """True if an autoscaler may add nodes, or if that is not known yet.

    Ray's monitor reports from every cluster. Without an autoscaler it invents a type for each node.
    """
    if is_autoscaler_v2(fetch_from_server=True):
        return True
    report = json.loads(_internal_kv_get("__autoscaling_status") or b"{}")
    types: dict[str, str] | None = report.get("autoscaler_report", {}).get("node_type_mapping")
    return types is None or has_node_types(types)


def has_node_types(type_of: Mapping[str, str]) -> bool:
    """True for types that a config has named. `type_of` is by the id, or the address, of a node."""
    return any(not name.startswith("node_") for name in type_of.values())
