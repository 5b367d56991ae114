"""Nodes that may come, and nodes that come, from the report of Ray's monitor."""

import json

import pytest

from deployments import autoscaler


@pytest.fixture
def report(monkeypatch):
    """The report of a cluster without an autoscaler of the second version."""
    report = {}

    def get(key):
        assert key == "__autoscaling_status"
        return json.dumps({"autoscaler_report": report}).encode() if report else None

    monkeypatch.setattr(autoscaler, "is_autoscaler_v2", lambda fetch_from_server: False)
    monkeypatch.setattr(autoscaler, "_internal_kv_get", get)
    return report


@pytest.mark.parametrize(
    "types, may_add",
    [
        ({}, False),
        ({"23cc": "node_23cc"}, False),
        ({"10.0.0.1": "ray.head.default", "10.0.0.2": "gpu"}, True),
    ],
)
def test_a_cluster_without_autoscaler_has_a_type_of_its_own_for_each_node(report, types, may_add):
    assert autoscaler.may_add_nodes(), "nothing is known before the first report"
    report["node_type_mapping"] = types
    assert autoscaler.may_add_nodes() == may_add


@pytest.mark.parametrize(
    "pending, adding",
    [
        ({"pending_nodes": [], "pending_launches": {}}, False),
        ({"pending_nodes": [], "pending_launches": {"gpu": 1}}, True),
        ({"pending_nodes": [["10.0.0.1", "gpu", "setting-up"]], "pending_launches": {}}, True),
    ],
)
def test_a_node_is_added_from_its_launch_until_it_is_up(report, pending, adding):
    assert not autoscaler.is_adding_node()
    report |= pending
    assert autoscaler.is_adding_node() == adding
