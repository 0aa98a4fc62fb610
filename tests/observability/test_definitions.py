"""The file of metrics: well-formed, bounded, the only source of names; and nothing else makes or writes metrics."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from serve_app import errors
from serve_app.observability import definitions as d
from serve_app.observability.instruments import Instruments, family

ROOT = Path(__file__).parents[2]
ALL = list(d.definitions())
MADE_BY = ("Counter", "Gauge", "Histogram", "Summary", "Info", "Enum")
FAMILIES = ("CounterMetricFamily", "GaugeMetricFamily", "HistogramMetricFamily", "SummaryMetricFamily")


def test_names_are_unique_and_follow_prometheus_rules() -> None:
    assert len(ALL) > 80 and len({m.name for m in ALL}) == len(ALL)
    series = [name for m in ALL for name in m.series]
    assert len(set(series)) == len(series)
    for metric in ALL:
        assert re.fullmatch(r"jethro_[a-z0-9_]+", metric.name) and not metric.name.endswith(
            ("_total", "_count", "_sum")
        )
        assert (
            metric.meaning and metric.unit and metric.name.startswith("jethro_engine_") == (metric.source == "engine")
        )
        assert metric.name.endswith("_seconds") == (metric.unit == "seconds")


def test_every_label_has_a_bound_and_none_is_of_a_caller() -> None:
    used = {label for m in ALL for label in m.shown_labels} - {"le"}
    assert used == set(d.LABELS)
    assert set(d.VALUES) <= used
    assert not used & {"tenant", "user", "key", "request_id", "decision_id", "prompt", "text"}


def test_histograms_alone_have_buckets_that_rise() -> None:
    for metric in ALL:
        assert bool(metric.buckets) == (metric.kind == "histogram"), metric.name
        assert list(metric.buckets) == sorted(set(metric.buckets))
        assert len(metric.buckets) <= 20, "each is a series"


def test_an_instrument_is_of_the_kind_that_is_defined() -> None:
    made = Instruments(CollectorRegistry())
    with pytest.raises(ValueError, match="jethro_score is defined as a histogram, not as a counter"):
        made.counter(d.SCORE)
    with pytest.raises(ValueError, match="jethro_requests is defined as a counter, not as a gauge"):
        made.gauge(d.REQUESTS)
    assert family(d.STORE_AWAY, 1.0).samples[0].value == 1.0


def calls(path: Path) -> Iterator[tuple[str, str]]:
    """(what is made, module that it is imported from) of a file's imports of the client library or of Ray's metrics."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(
            ("prometheus_client", "ray.util.metrics")
        ):
            yield from ((alias.name, str(node.module)) for alias in node.names)


def test_nothing_else_makes_metrics() -> None:
    """Ray's gauges are made in Serve's controller, of definitions as well; engines and Gateways use Instruments."""
    found = set()
    for path in sorted((ROOT / "serve_app").rglob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        found |= {(name, made) for made, _ in calls(path) if made in (*MADE_BY, *FAMILIES)}
    here = "serve_app/observability/instruments.py"
    allowed = {(here, one) for one in ("Counter", "Gauge", "Histogram", "CounterMetricFamily", "GaugeMetricFamily")}
    assert found == allowed | {("serve_app/deployments/scaling.py", "Gauge")}
    scaling = (ROOT / "serve_app/deployments/scaling.py").read_text("utf-8")
    assert re.findall(r"Gauge\((\S+)", scaling) == ["one.name,"] and "(SCALING_TARGET, SCALING_HELD)" in scaling


def test_names_of_metrics_are_written_nowhere_else() -> None:
    """Elsewhere they would be another definition; texts for people may name them."""
    found = {}
    for path in sorted((ROOT / "serve_app").rglob("*.py")):
        if path == Path(d.__file__):
            continue
        names = {m for m in re.findall(r"[\"'](jethro_[a-z_]+)[\"']", path.read_text("utf-8"))}
        if names & {name for m in ALL for name in (m.name, m.shown)}:
            found[path.name] = names
    assert found == {}


def test_every_code_of_ours_is_known_as_a_refusal() -> None:
    """Codes of errors by which callers are refused; those of failures (5xx but 503) are no refusals."""
    written = set()
    for path in (ROOT / "serve_app").rglob("*.py"):
        if path.relative_to(ROOT / "serve_app").parts[0] in (
            "api",
            "gateway",
            "streams",
            "store",
            "placement",
            "pools",
        ):
            written |= set(re.findall(r"\bcode=\"([a-z_]+)\"", path.read_text("utf-8")))
    for kind in vars(errors).values():
        if (
            isinstance(kind, type)
            and issubclass(kind, errors.JethroError)
            and (kind.status < 500 or kind.status == 503)
        ):
            written.add(kind.default_code)
    assert written - d.REFUSAL_CODES - {None} == set()
