import pytest
from ray.util.metrics import Counter, Histogram

from deployments.observability import rank_metrics, session_metrics
from deployments.observability.lasting_gauge import LastingGauge
from deployments.observability.metrics import METRICS, create

KINDS = {"counter": Counter, "gauge": LastingGauge, "histogram": Histogram}


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_is_rays_of_its_kind_with_its_labels(name):
    spec, metric = METRICS[name], create(name)
    assert type(metric) is KINDS[spec.kind]
    assert metric.info["name"] == name and metric.info["description"] == spec.text
    assert metric.info["tag_keys"] == spec.tags
    if spec.kind == "histogram":
        assert metric.info["boundaries"] == sorted(set(spec.bounds))


def test_every_metric_is_created_by_somebody(recorded):
    session_metrics.TransportMetrics()
    session_metrics.ResumeMetrics()
    rank_metrics.CacheMetrics(rank=0)
    rank_metrics.GroupMetrics()
    assert {f"lingbot_{name}" for name in recorded} == METRICS.keys()
