"""What an engine's adapters do, as metrics in Prometheus' format; the same for every engine."""

from prometheus_client import CollectorRegistry

from serve_app.observability import definitions as d
from serve_app.observability.instruments import Instruments


class AdapterFigures:
    """Counts into `registry`; every metric carries the model's id. Used on the event loop only."""

    def __init__(self, model: str, registry: CollectorRegistry) -> None:
        made = Instruments(registry)
        self._hits, self._misses = made.counter(d.ADAPTER_HITS)(model), made.counter(d.ADAPTER_MISSES)(model)
        self._loads, self._failures = made.counter(d.ADAPTER_LOADS)(model), made.counter(d.ADAPTER_FAILURES)(model)
        self._evictions = made.counter(d.ADAPTER_EVICTIONS)(model)
        self._held, self._bytes = made.gauge(d.ADAPTERS)(model), made.gauge(d.ADAPTER_BYTES)(model)
        self._seconds = made.histogram(d.ADAPTER_LOAD)(model)

    def used(self, *, hit: bool) -> None:
        """A request took an adapter; `hit`: it was in memory."""
        (self._hits if hit else self._misses).inc()

    def loaded(self, seconds: float) -> None:
        """An adapter was loaded."""
        self._loads.inc()
        self._seconds.observe(seconds)

    def failed(self) -> None:
        """An adapter could not be loaded."""
        self._failures.inc()

    def evicted(self) -> None:
        """An adapter left the memory."""
        self._evictions.inc()

    def holds(self, adapters: int, held_bytes: int) -> None:
        """How many are in memory, and their size."""
        self._held.set(adapters)
        self._bytes.set(held_bytes)
