"""Questions to Ray's autoscaler of nodes, version 1 or 2: its presence, and the nodes it adds.

Both functions ask the GCS.
"""

import json
from collections.abc import Mapping
from typing import Any

import ray
from ray.autoscaler.v2.sdk import get_cluster_status
from ray.autoscaler.v2.utils import is_autoscaler_v2
from ray.experimental.internal_kv import _internal_kv_get


def may_add_nodes() -> bool:
    """True if an autoscaler may add nodes, or if that is not known yet."""
    return is_autoscaler_v2(fetch_from_server=True) or has_node_types(read_report())


def is_adding_node() -> bool:
    """True while an autoscaler adds a node."""
    if is_autoscaler_v2(fetch_from_server=True):
        status = get_cluster_status(ray.get_runtime_context().gcs_address)
        return bool(status.pending_launches or status.pending_nodes)
    report = read_report()
    return bool(report.get("pending_nodes") or report.get("pending_launches"))


def read_report() -> Mapping[str, Any]:
    """The report of Ray's monitor, which every cluster has; empty before the first."""
    status = json.loads(_internal_kv_get("__autoscaling_status") or b"{}")
    report: Mapping[str, Any] | None = status.get("autoscaler_report")
    return report or {}


def has_node_types(report: Mapping[str, Any]) -> bool:
    """True if a config has named the types of nodes, or if the report has none yet.

    Without an autoscaler the monitor invents a type for each node. Types are by the id, or the
    address, of a node.
    """
    types: Mapping[str, str] | None = report.get("node_type_mapping")
    return types is None or any(not name.startswith("node_") for name in types.values())
