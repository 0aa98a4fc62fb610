"""What an engine's adapters do, as metrics in Prometheus' format; the same for every engine."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_LABELS = ("model",)
_SECONDS = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1, 2, 4, 8)


class AdapterFigures:
    """Counts into `registry`; every metric carries the model's id. Used on the event loop only."""

    def __init__(self, model: str, registry: CollectorRegistry) -> None:
        def counter(name: str, words: str) -> Counter:
            return Counter(f"jethro_engine_adapter_{name}", words, _LABELS, registry=registry).labels(model)

        def gauge(name: str, words: str) -> Gauge:
            return Gauge(f"jethro_engine_{name}", words, _LABELS, registry=registry).labels(model)

        self._hits = counter("hits", "Requests whose adapter was in memory.")
        self._misses = counter("misses", "Requests that waited for their adapter.")
        self._loads = counter("loads", "Adapters loaded.")
        self._failures = counter("failures", "Adapters that could not be loaded.")
        self._evictions = counter("evictions", "Adapters that left the memory.")
        self._held = gauge("adapters", "Adapters in memory.")
        self._bytes = gauge("adapter_bytes", "Size of the adapters in memory.")
        self._seconds = Histogram(
            "jethro_engine_adapter_load_seconds", "Time to load an adapter.", _LABELS, registry=registry,
            buckets=_SECONDS,
        ).labels(model)  # fmt: skip

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
