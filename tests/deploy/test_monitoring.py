"""deploy/monitoring: queries name metrics and labels that the product has, and every metric is shown."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.util import metrics

from cluster.pool.metrics import PoolMetrics
from cluster.serving.metrics import Metrics as ServingMetrics
from cluster.supervision.metrics import RunMetrics

FOLDER = Path(__file__).parents[2] / "deploy" / "monitoring"
DASHBOARDS = sorted(FOLDER.glob("*.json"))
SUFFIXES = {
    metrics.Gauge: ("",),
    metrics.Counter: ("_total",),
    metrics.Histogram: ("_bucket", "_sum", "_count"),
}
"""What Prometheus sees behind the name of each kind; tests/cluster/test_pool.py reads them from Ray."""


@pytest.fixture(scope="module")
def known() -> dict[str, set[str]]:
    """The labels of each metric, by the name in Prometheus."""
    found: dict[str, set[str]] = {}
    for group in (RunMetrics("run", 1), PoolMetrics(), ServingMetrics()):
        for value in vars(group).values():
            for metric in value.values() if isinstance(value, dict) else [value]:
                for kind, suffixes in SUFFIXES.items():
                    if isinstance(metric, kind):
                        info = metric.info
                        for suffix in suffixes:
                            found[f"ray_{info['name']}{suffix}"] = {*info["tag_keys"], "le"}
    assert len(found) > 30
    return found


def dashboard(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text()))


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((FOLDER / "alerts.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def queries() -> list[str]:
    """All queries of the dashboards, of their variables, and of the alerts."""
    found = [rule["expr"] for rule in rules()]
    for board in map(dashboard, DASHBOARDS):
        found += [target["expr"] for panel in board["panels"] for target in panel.get("targets", [])]
        found += [v["query"]["query"] for v in board["templating"]["list"] if v["type"] == "query"]
    return found


def test_queries_name_metrics_and_labels_that_exist(known: dict[str, set[str]]) -> None:
    for query in queries():
        names = re.findall(r"\bray_\w+", query)
        assert names, query
        assert set(names) <= known.keys(), query
        labels = set().union(*(known[name] for name in names))
        for selector in re.findall(r"\{([^}]*)\}", query):
            assert set(re.findall(r"(\w+)\s*=", selector.replace("!=", "=").replace("=~", "="))) <= labels, (
                query
            )
        for grouped in re.findall(r"\bby \(([^)]*)\)", query):
            assert {name.strip() for name in grouped.split(",")} <= labels, query


def test_every_metric_is_shown_or_watched(known: dict[str, set[str]]) -> None:
    text = " ".join(queries())
    unseen = {name for name in known if not re.search(rf"\b{name}\b", text)}
    assert {name for name in unseen if not name.endswith(("_sum", "_count"))} == {"ray_odeformer_adapters"}


def test_labels_have_few_values(known: dict[str, set[str]]) -> None:
    assert set().union(*known.values()) == {
        *("run", "part", "bound", "cause"),  # a run has one name
        *("team", "state"),  # a team that the pool's settings name, or one label for all others
        *("depth", "budget", "le"),
    }


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.name)
def test_dashboards_are_complete_and_their_panels_do_not_overlap(path: Path) -> None:
    board = dashboard(path)
    assert board["title"].startswith("Odeformer")
    ids = [panel["id"] for panel in board["panels"]]
    assert len(ids) == len(set(ids))
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert all(x < 24 for x, _ in cells), panel["title"]
        taken |= cells
        if panel["type"] != "row":
            assert panel["fieldConfig"]["defaults"]["unit"]
            assert all(target["legendFormat"] for target in panel["targets"])


def test_alerts_say_what_is_wrong_and_what_to_do() -> None:
    names = [rule["alert"] for rule in rules()]
    assert len(names) == len(set(names))
    for rule in rules():
        assert rule["labels"]["severity"] in ("info", "warning", "critical")
        assert rule["annotations"]["summary"]
        assert rule["annotations"]["action"]


def test_prometheus_loads_the_rules_and_reads_what_ray_lists() -> None:
    content = yaml.safe_load((FOLDER / "prometheus.yaml").read_text())
    assert all((FOLDER / file).is_file() for file in content["rule_files"])
    [job] = content["scrape_configs"]
    assert job["file_sd_configs"][0]["files"] == ["/tmp/ray/prom_metrics_service_discovery.json"]
