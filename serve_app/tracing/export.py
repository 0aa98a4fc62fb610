"""Where spans go: OpenTelemetry's batch processor, in a thread of its own, and the exporter that its variables name.

A collector that is away costs its spans and nothing else: the queue is bounded (OTEL_BSP_MAX_QUEUE_SIZE), a full one
drops, and our log says once that spans are lost. OpenTelemetry's own log is silenced, see `process_log`.
"""

import logging
from collections.abc import Sequence

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_ON

from serve_app import __version__
from serve_app.config.load import trace_export

logger = logging.getLogger("jethro.tracing")


def open_provider(instance: str) -> TracerProvider | None:
    """A provider that exports; None where the environment turns export off. Raises ConfigError, see `trace_export`."""
    chosen = trace_export()
    if chosen.exporter == "none":
        return None
    exporter = _to_stdout() if chosen.exporter == "console" else OTLPSpanExporter(headers=chosen.headers)
    provider = provider_of(instance)
    provider.add_span_processor(BatchSpanProcessor(ReportedExporter(exporter)))
    return provider


def provider_of(instance: str) -> TracerProvider:
    """A provider without a processor. Every span that is begun is recorded: what is sampled is decided before."""
    ours = Resource({"service.name": "jethro", "service.version": __version__, "service.instance.id": instance})
    resource = ours.merge(OTELResourceDetector().detect())
    return TracerProvider(ALWAYS_ON, resource, shutdown_on_exit=False)


def _to_stdout() -> SpanExporter:
    """A line of JSON for each span, to file descriptor 1: in a replica sys.stdout is Ray Serve's."""
    out = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - kept
    return ConsoleSpanExporter(out=out, formatter=lambda span: f"{span.to_json(indent=None)}\n")


class ReportedExporter(SpanExporter):
    """Exports by another, and logs when that begins to fail and when it works again."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self._lost = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Export a batch; called by the processor's thread."""
        try:
            result = self._exporter.export(spans)
        except Exception as error:  # whatever it is, the thread must live
            result = SpanExportResult.FAILURE
            logger.debug("an exporter of traces failed: %s", type(error).__name__)
        if result is SpanExportResult.SUCCESS:
            if self._lost:
                logger.warning("traces are exported again; %d spans were lost", self._lost)
            self._lost = 0
            return result
        if not self._lost:
            logger.warning("traces are not exported, and lost: see that the collector of OTEL_EXPORTER_OTLP_* answers")
        self._lost += len(spans)
        return result

    def shutdown(self) -> None:
        """End the exporter."""
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Nothing is kept here."""
        return self._exporter.force_flush(timeout_millis)
