"""A real Prometheus scrapes the running application under load: every metric that is defined has samples with its
labels, every panel of every dashboard has data, and no alert cries wolf."""

import asyncio
import math
from collections.abc import Iterator

import httpx
import pytest

from serve_app.observability import definitions as d
from serve_app.observability.grafana.boards import queries, read_boards
from tests.integration import mixed_traffic
from tests.integration.prometheus_server import BINARY, Prometheus, operator, prometheus, ray_export
from tests.integration.serving import serving

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(BINARY is None, reason="prometheus is not installed (Debian: prometheus)"),
]
WINDOW = {"$__rate_interval": "5m", "$__range": "5m"}
"""What Grafana puts in a query: here wide enough for all the traffic."""


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Prometheus, once it has seen two rounds of traffic: the first makes the series, the second makes them rise."""
    folder = tmp_path_factory.mktemp("monitoring")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_enable_metrics_collection", "1")  # off for an endpoint of one machine
        with serving(mixed_traffic.tree(folder), folder) as url, operator() as stand_in:
            port = int(url.rpartition(":")[2])
            targets = {"jethro": f"127.0.0.1:{port}", "operator": stand_in, "ray": ray_export(port)}
            with prometheus(folder / "prometheus", targets) as found:
                httpx.post(f"{url}/v1/streams", json=mixed_traffic.STREAM, timeout=60).raise_for_status()
                asyncio.run(mixed_traffic.drive(url, seed=1, scored=160))
                found.until_scraped("jethro")
                asyncio.run(mixed_traffic.drive(url, seed=2, scored=160))
                found.until_scraped("jethro", more=3)
                yield found


def test_every_metric_is_there_with_its_labels(seen: Prometheus) -> None:
    wrong = {m.shown: why for m in d.definitions() if (why := what_is_wrong(seen, m))}
    assert wrong == {}


def what_is_wrong(seen: Prometheus, metric: d.MetricDefinition) -> str:
    """Empty for a metric whose series are there, each with its labels and no others."""
    for series in metric.series:
        wanted = set(metric.shown_labels) - (set() if series.endswith("_bucket") else {"le"})
        found = [set(one["metric"]) - {"__name__", "job", "instance", "ray_io_cluster"} for one in seen.query(series)]
        if not found:
            return f"{series} has no samples"
        if wanted - set().union(*found):
            return f"{series}: no sample has {wanted - set().union(*found)}"
        for labels in found:  # an empty value is no label to Prometheus
            if wanted - labels - {"router", "strategy", "pool"} or (metric.source != "ray" and labels - wanted):
                return f"{series} has the labels {labels}"
    if metric.kind == "histogram" and not any(float(o["value"][1]) for o in seen.query(f"{metric.shown}_count")):
        return "nothing was observed"
    return ""


def test_labels_have_no_other_values(seen: Prometheus) -> None:
    for label, known in {**d.VALUES, "reason": (*d.CAUSES, *d.RETRY_REASONS)}.items():
        of_label = [m for m in d.definitions() if label in m.labels]
        names = [f"{m.shown}_count" if m.kind == "histogram" else m.shown for m in of_label]
        found = {one["metric"].get(label) for name in names for one in seen.query(f"count by ({label}) ({name})")}
        assert found - {None} and found - {None} <= set(known) - {"other"}, label


def test_every_panel_has_data(seen: Prometheus) -> None:
    without = {}
    for panel, expression in queries(read_boards()):
        for name, value in WINDOW.items():
            expression = expression.replace(name, value)
        found = seen.query(expression)
        if not any(math.isfinite(float(one["value"][1])) for one in found):
            without[panel, expression] = found[:3]
    assert without == {}


def test_figures_agree_with_the_traffic(seen: Prometheus) -> None:
    """A count that is known from outside; and that routing saved something of what the large model would have cost."""
    (unknown,) = seen.query('sum(jethro_refusals_total{code="model_not_found"})')
    assert float(unknown["value"][1]) == 2
    spent, large = (f'sum(jethro_{k}_cost_usd_total{{strategy="route"}})' for k in ("answered", "always_large"))
    (saved,) = seen.query(f"{large} - {spent}")
    assert float(saved["value"][1]) > 0


def test_no_alert_is_in_error(seen: Prometheus) -> None:
    groups = httpx.get(f"{seen.url}/api/v1/rules", timeout=10).json()["data"]["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert len(rules) > 20
    assert {rule["name"]: rule.get("lastError") for rule in rules if rule["health"] != "ok"} == {}
