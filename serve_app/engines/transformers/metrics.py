"""The engine's own metrics, in Prometheus' text format. Written by the worker thread, read by the event loop."""

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from serve_app.engines.adapter_figures import AdapterFigures

_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_SECONDS = (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1, 2, 4)


class EngineFigures:
    """One registry per engine; every metric carries the model's id."""

    def __init__(self, model: str) -> None:
        self._registry = CollectorRegistry()
        self._running = self._gauge("running_sequences", "Sequences in the batch.", model)
        self._waiting = self._gauge("waiting_sequences", "Sequences that wait for a row.", model)
        self._prompt = self._counter("prompt_tokens", "Prompt tokens read.", model)
        self._generated = self._counter("generated_tokens", "Tokens written.", model)
        self._failures = self._counter("failed_steps", "Steps that raised an error.", model)
        self._rows = self._histogram("batch_rows", "Rows of a decoding step.", _ROWS, model)
        self._decode = self._histogram("decode_seconds", "Time of a decoding step.", _SECONDS, model)
        self._prefill = self._histogram("prefill_seconds", "Time of a pass that reads prompts.", _SECONDS, model)
        self.adapters = AdapterFigures(model, self._registry)

    def decoded(self, rows: int, seconds: float) -> None:
        """A decoding step is done."""
        self._generated.inc(rows)
        self._rows.observe(rows)
        self._decode.observe(seconds)

    def prefilled(self, prompt_tokens: int, rows: int, seconds: float) -> None:
        """Prompts were read and each row's first token written."""
        self._prompt.inc(prompt_tokens)
        self._generated.inc(rows)
        self._prefill.observe(seconds)

    def failed(self) -> None:
        """A step raised an error."""
        self._failures.inc()

    def text(self, *, running: int, waiting: int) -> str:
        """All metrics; `running` and `waiting` are sequences now."""
        self._running.set(running)
        self._waiting.set(waiting)
        return generate_latest(self._registry).decode()

    def _gauge(self, name: str, words: str, model: str) -> Gauge:
        return Gauge(f"jethro_engine_{name}", words, ["model"], registry=self._registry).labels(model)

    def _counter(self, name: str, words: str, model: str) -> Counter:
        return Counter(f"jethro_engine_{name}", words, ["model"], registry=self._registry).labels(model)

    def _histogram(self, name: str, words: str, buckets: Iterable[float], model: str) -> Histogram:
        metric = Histogram(f"jethro_engine_{name}", words, ["model"], registry=self._registry, buckets=tuple(buckets))
        return metric.labels(model)
