"""Prometheus instruments made from definitions. The only module that makes any: what is not defined cannot be exported.

`labels()` of the client library checks and locks at every call; the children are few, so that each is made once and
kept.
"""

from collections.abc import Callable, Iterable
from functools import cache
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from serve_app.observability.definitions import MetricDefinition

Family = GaugeMetricFamily | CounterMetricFamily
_FAMILIES: Final[dict[str, type[GaugeMetricFamily] | type[CounterMetricFamily]]] = {
    "gauge": GaugeMetricFamily,
    "counter": CounterMetricFamily,
}


class Instruments:
    """Makes instruments in one registry. Each method returns a function from label values to the instrument."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def counter(self, definition: MetricDefinition) -> Callable[..., Counter]:
        """By label values, in the order of the definition."""
        _check(definition, "counter")
        made = Counter(definition.name, definition.meaning, definition.labels, registry=self._registry)
        return cache(made.labels) if definition.labels else lambda: made

    def gauge(self, definition: MetricDefinition) -> Callable[..., Gauge]:
        """By label values, in the order of the definition."""
        _check(definition, "gauge")
        made = Gauge(definition.name, definition.meaning, definition.labels, registry=self._registry)
        return cache(made.labels) if definition.labels else lambda: made

    def histogram(self, definition: MetricDefinition) -> Callable[..., Histogram]:
        """By label values, in the order of the definition."""
        _check(definition, "histogram")
        made = Histogram(
            definition.name, definition.meaning, definition.labels, registry=self._registry, buckets=definition.buckets
        )
        return cache(made.labels) if definition.labels else lambda: made


def family(definition: MetricDefinition, value: float | None = None) -> Family:
    """A family for what is read at a scrape; `value`: of one without labels."""
    made = _FAMILIES[definition.kind]
    if definition.labels:
        return made(definition.name, definition.meaning, labels=definition.labels)
    return made(definition.name, definition.meaning, value=value)


class AtScrape(Collector):
    """Calls a function at every scrape."""

    def __init__(self, read: Callable[[], Iterable[Family]]) -> None:
        self._read = read

    def collect(self) -> Iterable[Family]:
        """The families that the function returns."""
        return self._read()


def _check(definition: MetricDefinition, kind: str) -> None:
    if definition.kind != kind:
        raise ValueError(f"{definition.name} is defined as a {definition.kind}, not as a {kind}")
