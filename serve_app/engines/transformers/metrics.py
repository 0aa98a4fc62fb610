"""The engine's own metrics, in Prometheus' text format. Written by the worker thread, read by the event loop."""

from prometheus_client import CollectorRegistry, generate_latest

from serve_app.engines.adapter_figures import AdapterFigures
from serve_app.observability import definitions as d
from serve_app.observability.instruments import Instruments


class EngineFigures:
    """One registry per engine; every metric carries the model's id."""

    def __init__(self, model: str) -> None:
        self._registry = CollectorRegistry()
        made = Instruments(self._registry)
        self._running, self._waiting = made.gauge(d.ENGINE_RUNNING)(model), made.gauge(d.ENGINE_WAITING)(model)
        self._prompt, self._generated = made.counter(d.ENGINE_PROMPT)(model), made.counter(d.ENGINE_GENERATED)(model)
        self._failures = made.counter(d.ENGINE_FAILED)(model)
        self._rows = made.histogram(d.ENGINE_ROWS)(model)
        self._decode, self._prefill = made.histogram(d.ENGINE_DECODE)(model), made.histogram(d.ENGINE_PREFILL)(model)
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

    def encoded(self, tokens: int, rows: int, seconds: float) -> None:
        """Texts were embedded: a pass that reads, after which nothing is written."""
        self._prompt.inc(tokens)
        self._rows.observe(rows)
        self._prefill.observe(seconds)

    def failed(self) -> None:
        """A step raised an error."""
        self._failures.inc()

    def text(self, *, running: int, waiting: int) -> str:
        """All metrics; `running` and `waiting` are sequences now."""
        self._running.set(running)
        self._waiting.set(waiting)
        return generate_latest(self._registry).decode()
