"""Replicas that come and replicas that wait, from what Ray's tables say."""

import json

import pytest

from deployments import upcoming

PREFIX = "SERVE_REPLICA::lingbot#WorldGroup#"


def placement_group(name, state):
    return {"name": name, "state": state}


GROUPS = [
    placement_group(PREFIX + "a", "CREATED"),
    placement_group(PREFIX + "b", "PENDING"),
    placement_group("SERVE_REPLICA::other#WorldGroup#c", "PENDING"),
    placement_group("", "PENDING"),
]


@pytest.fixture
def cluster(monkeypatch):
    """A cluster without an autoscaler of the second version; returns its report."""
    report = {}

    def get(key):
        assert key == "__autoscaling_status"
        return json.dumps({"autoscaler_report": report}).encode() if report else None

    monkeypatch.setattr(upcoming, "placement_group_table", lambda: dict(enumerate(GROUPS)))
    monkeypatch.setattr(upcoming, "is_autoscaler_v2", lambda fetch_from_server: False)
    monkeypatch.setattr(upcoming, "_internal_kv_get", get)
    return report


def test_a_replica_with_resources_is_coming(cluster):
    assert upcoming.replicas_are_coming("lingbot", "WorldGroup", 2)


def test_a_replica_without_resources_is_not_coming_unless_a_node_is_added(cluster):
    assert not upcoming.replicas_are_coming("lingbot", "WorldGroup", 1)
    cluster |= {"pending_nodes": [], "pending_launches": {}}
    assert not upcoming.replicas_are_coming("lingbot", "WorldGroup", 1)
    cluster["pending_launches"] = {"gpu": 1}
    assert upcoming.replicas_are_coming("lingbot", "WorldGroup", 1)
    cluster |= {"pending_launches": {}, "pending_nodes": [["10.0.0.1", "gpu", "setting-up"]]}
    assert upcoming.replicas_are_coming("lingbot", "WorldGroup", 1)
