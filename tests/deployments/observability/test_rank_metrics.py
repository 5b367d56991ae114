from deployments.observability.rank_metrics import CacheMetrics, GroupMetrics
from lingbot.dit.camera_cache import CacheStats


def test_a_cache_s_totals_are_reported_as_increments(recorded):
    metrics = CacheMetrics(rank=1)
    stats = {"hits": 5, "misses": 2, "evictions": 0, "stored_bytes": 90, "conditioner_s": 0.5}
    metrics.report(CacheStats(**stats))
    metrics.report(CacheStats(**stats | {"hits": 7, "stored_bytes": 30}))
    assert recorded["camera_cache_hits"].values == {("1",): 7}
    assert recorded["camera_cache_misses"].values == {("1",): 2}
    assert recorded["camera_cache_evictions"].values == {}
    assert recorded["camera_cache_conditioner_s"].values == {("1",): 0.5}
    assert recorded["camera_cache_stored_bytes"].values == {("1",): 30}


def report(metrics, **fields):
    nothing = {
        "states": {},
        "ends": {},
        "num_expired": 0,
        "num_waiting": 0,
        "num_bytes": 0,
        "load": 0.0,
    }
    metrics.report(**nothing | fields)


def test_a_state_without_sessions_goes_back_to_zero(recorded):
    metrics = GroupMetrics()
    report(metrics, states={"active": 2, "paused": 1}, num_waiting=3, num_bytes=7, load=0.5)
    report(metrics, states={"active": 1})
    assert recorded["group_sessions"].values == {("active",): 1, ("paused",): 0}
    assert recorded["group_waiting"].values == {(): 0}
    assert recorded["group_session_bytes"].values == {(): 0}
    assert recorded["group_load"].values == {(): 0}


def test_ends_are_reported_as_increments(recorded):
    metrics = GroupMetrics()
    for ends in ({}, {"closed": 2}, {"closed": 2, "expired": 1}, {"closed": 5, "expired": 1}):
        report(metrics, ends=ends)
    assert recorded["lease_ends"].values == {("closed",): 5, ("expired",): 1}


def test_expired_leases_are_reported_as_increments(recorded):
    metrics = GroupMetrics()
    for number in (0, 2, 2, 3):
        report(metrics, num_expired=number)
    assert recorded["expired_leases"].values == {(): 3}
