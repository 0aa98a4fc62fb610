"""A double of an OpenTelemetry collector: OTLP over HTTP in, and what was received as plain values.

Runs in a thread, or alone: `python -m benchmarks.collector PORT` (the number of spans is at GET /spans).
"""

import gzip
import sys
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

import orjson
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue

PATH = "/v1/traces"


@dataclass(frozen=True, slots=True)
class ReceivedSpan:
    """A span as it was sent. `instance`: the process, as it names itself; ids are hexadecimal, "" for no parent."""

    name: str
    instance: str
    trace_id: str
    span_id: str
    parent_id: str
    kind: int
    failed: bool
    attributes: dict[str, Any]
    events: list[tuple[str, dict[str, Any]]]


@dataclass
class Collector:
    """Listens on localhost while it is entered. `answer`: the status of every answer; `headers`: of each request."""

    port: int = 0
    answer: int = 200
    spans: list[ReceivedSpan] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)

    def __enter__(self) -> Self:
        self.server = ThreadingHTTPServer(("127.0.0.1", self.port), self._handler())
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *failure: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    @property
    def url(self) -> str:
        """For OTEL_EXPORTER_OTLP_ENDPOINT."""
        return f"http://127.0.0.1:{self.port}"

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        collector = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                collector.headers.append({k.lower(): v for k, v in self.headers.items()})
                if self.path == PATH and collector.answer < 300:
                    collector.bodies.append(body)
                    collector.spans.extend(spans_of(body))
                self._reply(collector.answer, ExportTraceServiceResponse().SerializeToString())

            def do_GET(self) -> None:
                self._reply(200, orjson.dumps({"spans": len(collector.spans)}))

            def log_message(self, *_: object) -> None:
                """Nothing."""

            def _reply(self, status: int, body: bytes) -> None:
                self.send_response(status)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        return Handler


def spans_of(body: bytes) -> list[ReceivedSpan]:
    """The spans of an export request."""
    request = ExportTraceServiceRequest.FromString(body)
    found = []
    for resource in request.resource_spans:
        instance = str(_values(resource.resource.attributes).get("service.instance.id", ""))
        for scope in resource.scope_spans:
            for span in scope.spans:
                events = [(event.name, _values(event.attributes)) for event in span.events]
                ids = (span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex())
                failed, attributes = span.status.code == 2, _values(span.attributes)
                found.append(ReceivedSpan(span.name, instance, *ids, span.kind, failed, attributes, events))
    return found


def _values(attributes: Any) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in attributes}


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(one) for one in value.array_value.values]
    return getattr(value, kind) if kind is not None else None


if __name__ == "__main__":
    with Collector(int(sys.argv[1])):
        threading.Event().wait()
