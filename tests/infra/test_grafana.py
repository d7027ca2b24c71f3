"""The Grafana dashboard asks for metrics that exist, and for all of them."""

import json
import re
from pathlib import Path

import pytest

from pipelines.generate.watch.metrics import METRICS, TAGS

ROOT = Path(__file__).parents[2]
LABELS = {*TAGS, "kind", "state"}


@pytest.fixture(scope="module")
def dashboard() -> dict:
    return json.loads((ROOT / "infra/grafana/orthrus.json").read_text())


def expressions(dashboard) -> list[str]:
    return [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]


def test_it_has_what_grafana_needs_to_load_it(dashboard):
    assert dashboard["title"]
    assert dashboard["uid"]
    assert isinstance(dashboard["schemaVersion"], int)
    assert {variable["name"] for variable in dashboard["templating"]["list"]} == {"datasource", "run"}
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))
    for panel in dashboard["panels"]:
        assert panel["type"] in ("timeseries", "stat")
        assert set(panel["gridPos"]) == {"x", "y", "w", "h"}
        refs = [target["refId"] for target in panel["targets"]]
        assert len(refs) == len(set(refs)) >= 1


def test_panels_do_not_overlap(dashboard):
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in dashboard["panels"])
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24


def test_its_queries_name_every_metric_and_no_other(dashboard):
    asked = {name for text in expressions(dashboard) for name in re.findall(r"\bray_\w+", text)}
    assert asked == {spec.exported for spec in METRICS}


def test_counters_are_asked_for_their_rate_or_sum_and_gauges_never_for_a_rate(dashboard):
    gauges = [spec.exported for spec in METRICS if spec.kind == "gauge"]
    rated = {name for text in expressions(dashboard) for name in re.findall(r"rate\((\w+)", text)}
    assert rated
    assert not rated & set(gauges)


def test_its_queries_use_tags_that_metrics_have(dashboard):
    for text in expressions(dashboard):
        used = set(re.findall(r"by \((\w+)\)", text)) | set(re.findall(r"(\w+)=~?\"", text))
        assert used <= LABELS, text
    shown = {
        name
        for panel in dashboard["panels"]
        for t in panel["targets"]
        for name in re.findall(r"\{\{(\w+)\}\}", t["legendFormat"])
    }
    assert shown <= LABELS
