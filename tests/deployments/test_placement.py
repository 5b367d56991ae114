"""Replicas that come, and reasons why none can, from Serve's message and Ray's tables."""

import json

import pytest
from ray.serve.schema import (
    DeploymentStatus,
    DeploymentStatusOverview,
    DeploymentStatusTrigger,
)

from deployments import placement
from deployments.placement import (
    reason_for,
    replicas_are_coming,
    required_by,
    why_unplaceable,
)


def message_for(required):
    """As Serve writes it."""
    return (
        "Deployment 'WorldGroup' in application 'lingbot' has 1 replicas that have taken more than "
        "30s to be scheduled. This may be due to waiting for the cluster to auto-scale or for a "
        "runtime environment to be installed. Resources required for each replica: "
        f"{required}, total resources available: {{}}. Use `ray status` for more details."
    )


@pytest.mark.parametrize(
    "message, required",
    [
        (message_for('[{"CPU": 2.0}, {"GPU": 1}]'), [{"CPU": 2}, {"GPU": 1}]),
        (message_for('{"CPU": 1, "GPU": 0.5}'), [{"CPU": 1, "GPU": 0.5}]),
        (message_for("UNKNOWN"), None),
        ("Deployment has 1 replicas that have taken more than 30s to initialize.", None),
        ("", None),
    ],
)
def test_serves_message_says_what_a_replica_waits_for(message, required):
    assert required_by(message) == required


def group(state):
    return {"stats": {"scheduling_state": state}}


NODES = [{"CPU": 2.0, "memory": 1e9, "node:10.0.0.1": 1.0}, {"CPU": 8.0, "GPU": 1.0}]


def test_a_bundle_that_fits_no_node_is_told_with_what_is_there():
    reason = reason_for("WorldGroup", [{"CPU": 1, "GPU": 2}], [], NODES)
    assert reason == (
        "no node can hold a replica of WorldGroup: it asks for 1 CPU, 2 GPU, and there are nodes "
        "with 2 CPU, 0 GPU; 8 CPU, 1 GPU"
    )


def test_bundles_that_fit_no_node_together_are_told_by_rays_own_word():
    bundles = [{"GPU": 1}, {"GPU": 1}]
    reason = reason_for("WorldGroup", bundles, [group("PENDING"), group("INFEASIBLE")], NODES)
    assert "it asks for 1 GPU and 1 GPU, and" in reason


def test_resources_that_others_hold_may_become_free():
    assert reason_for("WorldGroup", [{"CPU": 8}], [group("NO_RESOURCES")], NODES) is None


def test_a_large_cluster_is_cut():
    assert reason_for("A", [{"TPU": 1}], [], [{"CPU": 1}] * 9).endswith(
        "; 1 CPU, 0 GPU, 0 TPU and 5 more"
    )


@pytest.mark.parametrize("adds_nodes", [False, True])
def test_a_cluster_that_adds_nodes_has_no_failure(monkeypatch, adds_nodes):
    table = {
        "1": {"name": "SERVE_REPLICA::lingbot#WorldGroup#x"} | group("INFEASIBLE"),
        "2": {"name": "SERVE_REPLICA::lingbot#TextEncoder#y"} | group("INFEASIBLE"),
    }
    nodes = [{"Alive": True, "Resources": {"CPU": 2.0}}, {"Alive": False, "Resources": {}}]
    monkeypatch.setattr(placement, "may_add_nodes", lambda: adds_nodes)
    monkeypatch.setattr(placement, "placement_group_table", lambda: table)
    monkeypatch.setattr(placement.ray, "nodes", lambda: nodes)

    def why(name, message):
        status = DeploymentStatusOverview(
            status=DeploymentStatus.UPDATING,
            status_trigger=DeploymentStatusTrigger.CONFIG_UPDATE_STARTED,
            replica_states={},
            message=message,
        )
        return why_unplaceable("lingbot", name, status)

    one = message_for(json.dumps([{"CPU": 1.0}, {"CPU": 1.0}]))
    reason = why("WorldGroup", one)
    assert (reason is None) == adds_nodes
    assert adds_nodes or reason.endswith("there are nodes with 2 CPU, 0 GPU")
    assert why("Transport", one) is None
    assert why("WorldGroup", "") is None


@pytest.mark.parametrize(
    "num_starting, adding, coming", [(2, False, True), (1, False, False), (1, True, True)]
)
def test_a_replica_comes_that_has_its_resources_or_for_which_a_node_is_added(
    monkeypatch, num_starting, adding, coming
):
    names = ["lingbot#WorldGroup#a", "lingbot#WorldGroup#b", "other#WorldGroup#c"]
    states = ["CREATED", "PENDING", "PENDING"]
    table = [
        {"name": f"SERVE_REPLICA::{name}", "state": state}
        for name, state in zip(names, states, strict=True)
    ]
    monkeypatch.setattr(placement, "placement_group_table", lambda: dict(enumerate(table)))
    monkeypatch.setattr(placement, "is_adding_node", lambda: adding)
    assert replicas_are_coming("lingbot", "WorldGroup", num_starting) == coming
