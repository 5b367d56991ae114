"""Whether the replicas that Serve starts will come, or wait for resources that nobody adds."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

import ray
from ray.autoscaler.v2.sdk import get_cluster_status
from ray.autoscaler.v2.utils import is_autoscaler_v2
from ray.experimental.internal_kv import _internal_kv_get
from ray.util import placement_group_table


def replicas_are_coming(application: str, deployment: str, num_starting: int) -> bool:
    """True if a starting replica has its resources, or if a node is being added.

    Asks the GCS.
    """
    groups = placement_group_table().values()
    num_waiting = count_waiting(groups, prefix=f"SERVE_REPLICA::{application}#{deployment}#")
    return num_starting > num_waiting or nodes_are_coming()


def count_waiting(groups: Iterable[Mapping[str, Any]], *, prefix: str) -> int:
    """How many of the placement groups with this prefix wait for resources."""
    return sum(group["state"] == "PENDING" and group["name"].startswith(prefix) for group in groups)


def nodes_are_coming() -> bool:
    """True while an autoscaler adds a node."""
    if is_autoscaler_v2(fetch_from_server=True):
        status = get_cluster_status(ray.get_runtime_context().gcs_address)
        return bool(status.pending_launches or status.pending_nodes)
    report = json.loads(_internal_kv_get("__autoscaling_status") or b"{}")
    return adds_nodes(report.get("autoscaler_report") or {})


def adds_nodes(report: Mapping[str, Any]) -> bool:
    """The same from the report of an autoscaler of the first version."""
    return bool(report.get("pending_nodes") or report.get("pending_launches"))
