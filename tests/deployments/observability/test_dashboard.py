"""The dashboard, the alert rules and the document against the table of metrics."""

import json
import re
from pathlib import Path

import pytest
import yaml

from deployments.observability.metrics import METRICS

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "deployments/observability"
DASHBOARD = json.loads((FOLDER / "dashboard.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
(GROUP,) = yaml.safe_load((FOLDER / "alerts.yaml").read_text())["groups"]
OPERATING = (ROOT / "docs/operating.md").read_text()

# By what Prometheus calls it: the metric, and whether it is a counter or a bucket of a histogram.
EXPORTED = {f"ray_{name}{end}": spec for name, spec in METRICS.items() for end in spec.suffixes}
PANEL_QUERIES = [target["expr"] for panel in PANELS for target in panel["targets"]]
ALERT_QUERIES = [rule["expr"] for rule in GROUP["rules"]]


def metrics_of(query):
    return set(re.findall(r"ray_lingbot_\w+", query))


@pytest.mark.parametrize("query", PANEL_QUERIES + ALERT_QUERIES)
def test_a_query_reads_metrics_that_exist_as_their_kind(query):
    assert metrics_of(query), "a query without a metric of ours"
    for name in metrics_of(query):
        spec = EXPORTED[name]
        for use in re.findall(rf"(\w+)\({name}", query):
            if spec.kind == "gauge":
                assert use not in ("rate", "increase"), f"{name} is a gauge"
            else:
                assert use in ("rate", "increase"), f"{name} only ever grows"
    assert ("histogram_quantile" in query) == ("_bucket" in query) == ("(le)" in query)


@pytest.mark.parametrize("query", PANEL_QUERIES + ALERT_QUERIES)
def test_a_query_selects_and_groups_by_labels_that_its_metric_has(query):
    labels = set(re.findall(r"[{,]\s*(\w+)=~?\"", query))
    for grouped in re.findall(r"by \(([^)]*)\)", query):
        labels |= {label.strip() for label in grouped.split(",")}
    known = {"le", "SessionName"}.union(*(EXPORTED[name].tags for name in metrics_of(query)))
    assert labels <= known
    assert query.count("(") == query.count(")")


def test_every_metric_is_on_the_dashboard():
    shown = set().union(*map(metrics_of, PANEL_QUERIES))
    missing = [
        name
        for name, spec in METRICS.items()
        if not shown & {f"ray_{name}{s}" for s in spec.suffixes}
    ]
    assert missing == []


def test_panels_do_not_overlap_and_say_what_they_show():
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    taken = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken and place["x"] + place["w"] <= 24
        taken |= cells
    assert all(panel["title"] and panel["description"] for panel in PANELS)


def test_every_metric_is_documented():
    for name in METRICS:
        assert f"`ray_{name}`" in OPERATING, name


@pytest.mark.parametrize("rule", GROUP["rules"], ids=lambda rule: rule["alert"])
def test_an_alert_has_a_severity_a_summary_and_a_remedy(rule):
    assert rule["labels"]["severity"] in ("warning", "critical")
    assert rule["annotations"]["summary"].endswith(".")
    assert f"| `{rule['alert']}` |" in OPERATING
