"""Export by OpenTelemetry's variables, in a thread of its own: a collector that is away harms nothing else."""

import json
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from benchmarks.collector import Collector
from serve_app.config.base import LogConfig, TracesConfig
from serve_app.errors import ConfigError
from serve_app.tracing import spans as spans_module
from serve_app.tracing.export import open_provider
from serve_app.tracing.spans import TraceSpan, Tracing, in_force, spanned
from tests.pools.upstream_server import unused_url

ON = LogConfig(traces=TracesConfig(enabled=True, sample=1.0))
VARIABLES = ("OTEL_TRACES_EXPORTER", "OTEL_SDK_DISABLED", "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_HEADERS")


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def trace(tracing: Tracing, count: int = 1) -> None:
    for _ in range(count):
        span = tracing.request("POST /x", [])
        assert isinstance(span, TraceSpan)
        with in_force(span), spanned("decide", {"jethro.score": 0.5, "jethro.threshold": float("nan")}):
            pass
        span.end()


def until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


def said_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What our own log says; OpenTelemetry's is silenced where a process sets up its log."""
    return [record.getMessage() for record in caplog.records if record.name == "jethro.tracing"]


def test_spans_reach_the_collector_that_the_environment_names(monkeypatch: pytest.MonkeyPatch) -> None:
    with Collector() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20s3cret, x-team = a")
        monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
        tracing = Tracing.from_config(ON, "replica-1")
        assert tracing is not None
        trace(tracing)
        tracing.close()
        tracing.close()
    request, decide = sorted(collector.spans, key=lambda span: span.parent_id)
    assert (request.name, request.instance, request.parent_id) == ("POST /x", "replica-1", "")
    assert (decide.name, decide.parent_id, decide.trace_id) == ("decide", request.span_id, request.trace_id)
    assert decide.attributes == {"jethro.score": 0.5}
    assert collector.headers[0]["authorization"] == "Bearer s3cret" and collector.headers[0]["x-team"] == "a"
    assert b"deployment.environment.name" in collector.bodies[0] and b"jethro" in collector.bodies[0]


def test_off_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Tracing.from_config(LogConfig(), "r") is None
    for name, value in (("OTEL_SDK_DISABLED", "true"), ("OTEL_TRACES_EXPORTER", "none")):
        with monkeypatch.context() as changed:
            changed.setenv(name, value)
            assert Tracing.from_config(ON, "r") is None


def test_a_process_that_does_not_trace_loads_no_opentelemetry() -> None:
    code = (
        "import sys, serve_app.tracing.spans as s, serve_app.tracing.model_calls, serve_app.pools.http\n"
        "from serve_app.config.base import LogConfig\n"
        "assert s.Tracing.from_config(LogConfig(), 'r') is None and s.trace_headers() == {}\n"
        "with s.spanned('x') as span: assert span is None\n"
        "print([m for m in sys.modules if m.startswith('opentelemetry')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("OTEL_TRACES_EXPORTER", "zipkin", "OTEL_TRACES_EXPORTER: no exporter 'zipkin': use otlp, console or none"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "OTEL_EXPORTER_OTLP_PROTOCOL: protocol 'grpc' is not spoken here"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "s3cret", "OTEL_EXPORTER_OTLP_HEADERS: write headers as key=value"),
    ],
)
def test_what_is_not_there_is_said(monkeypatch: pytest.MonkeyPatch, name: str, value: str, says: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=says) as caught:
        open_provider("r")
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("collector", ["away", "refuses"])
def test_a_collector_that_is_away_costs_its_spans_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, collector: str
) -> None:
    monkeypatch.setattr(spans_module, "_CLOSE_S", 0.5)
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "64")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "16")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=s3cret")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    with Collector(answer=401) as refusing:
        url = refusing.url if collector == "refuses" else unused_url().removesuffix("/v1")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
        with caplog.at_level(logging.DEBUG, logger="jethro"):
            tracing = Tracing.from_config(ON, "r")
            assert tracing is not None
            started = time.monotonic()
            trace(tracing, 500)
            assert time.monotonic() - started < 2
            until(lambda: bool(said_in(caplog)))
            started = time.monotonic()
            tracing.close()
            assert time.monotonic() - started < 2
    (said,) = said_in(caplog)
    assert "traces are not exported" in said
    assert "s3cret" not in caplog.text


def test_a_collector_that_returns_is_said(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
    with Collector(answer=401) as collector, caplog.at_level(logging.WARNING, logger="jethro"):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        tracing = Tracing.from_config(ON, "r")
        assert tracing is not None
        trace(tracing)
        until(lambda: len(said_in(caplog)) == 1)
        collector.answer = 200
        trace(tracing)
        until(lambda: len(said_in(caplog)) == 2)
        tracing.close()
    assert "traces are exported again; 2 spans were lost" in said_in(caplog)[1]


def test_a_close_does_not_wait_for_a_collector_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spans_module, "_CLOSE_S", 0.3)
    hanging = threading.Event()

    class Hangs(Collector):
        def _handler(self) -> Any:
            inner = super()._handler()
            inner.do_POST = lambda handler: hanging.wait(20)  # type: ignore[attr-defined]
            return inner

    with Hangs() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        tracing = Tracing.from_config(ON, "r")
        assert tracing is not None
        trace(tracing)
        started = time.monotonic()
        tracing.close()
        assert 0.2 < time.monotonic() - started < 3
        hanging.set()


def test_the_console_exporter_is_there(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "console")
    tracing = Tracing.from_config(ON, "r")
    assert tracing is not None
    trace(tracing)
    tracing.close()
    decide, request = (json.loads(line) for line in capfd.readouterr().out.splitlines())
    assert (decide["name"], request["name"]) == ("decide", "POST /x")
    assert decide["parent_id"] == request["context"]["span_id"]
