"""The benchmark of metrics, logs and traces: its ratios, its pass mark, its settings, and the collector double."""

import sys
import urllib.request
from time import monotonic, sleep

import orjson
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

from benchmarks.collector import Collector
from benchmarks.gateway.paired import Compared, cpu_s, noise, ratios
from benchmarks.observability import OFF, ON, arguments, passed, report, settings
from benchmarks.process import Server
from serve_app.config.base import LogConfig
from serve_app.tracing.export import provider_of

STAMP = {"date": "2026-11-30T00:00:00", "commit": "c", "cores": 2, "cpu": "x", "python": "3", "load_average_1m": 0.0}


def cell(on: list[float], errors: int = 0) -> Compared:
    made = Compared("one-shot", 16, (ON, OFF), errors=errors)
    made.rates = {ON: on, OFF: [100.0, 110.0] * (len(on) // 2)}
    made.cpu_ms = {ON: [1.0] * len(on), OFF: [0.95] * len(on)}
    return made


def test_a_ratio_is_of_one_round() -> None:
    assert ratios([90.0, 100.0, 50.0, 50.0], [100.0, 100.0, 50.0, 50.0]) == [0.95, 1.0]
    assert noise([100.0, 110.0, 50.0, 25.0]) == [1.1, 0.5]


def test_the_mark_needs_every_case_all_answers_and_spans() -> None:
    good, bad = cell([100.0] * 6), cell([90.0] * 6)
    assert passed([good], 5) and not passed([good, bad], 5) and not passed([good], 0)
    assert not passed([cell([100.0] * 6, errors=1)], 5)


def test_the_report_names_ratio_spread_and_noise() -> None:
    text = report([cell([100.0, 100.0, 105.0, 105.0, 110.0, 110.0])], 1234, STAMP)
    for expected in ("1.000", "0.976 to 1.024", "1.100", "1,234 spans", "holds", "0.950"):
        assert expected in text
    assert "does not hold" in report([cell([50.0, 50.0])], 1, STAMP)


def test_cpu_time_is_that_of_a_server_and_all_that_it_started() -> None:
    busy = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'while True: pass'])"
    server = Server("busy", [sys.executable, "-c", busy], "http://127.0.0.1:1/")
    server.start()
    try:
        end = monotonic() + 20
        while cpu_s(server) < 0.4:
            assert monotonic() < end
            sleep(0.05)
    finally:
        server.stop(1)


def test_on_and_off_are_settings_that_there_are() -> None:
    on, off = (LogConfig.model_validate(settings(x)) for x in (True, False))
    assert on.access and on.metrics and on.traces.enabled and on.traces.sample == 0.01
    assert not off.access and not off.metrics and not off.traces.enabled
    assert arguments([]).rounds >= 9


def test_the_collector_double_reads_what_the_exporter_sends() -> None:
    with Collector() as collector:
        provider = provider_of("p1")
        provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(f"{collector.url}/v1/traces")))
        span = provider.get_tracer("t").start_span("x", attributes={"a": 1, "b": ["y"]})
        span.add_event("e", {"c": True})
        span.end()
        with urllib.request.urlopen(f"{collector.url}/spans") as reply:
            assert orjson.loads(reply.read()) == {"spans": 1}
    (found,) = collector.spans
    assert (found.name, found.instance, found.parent_id, found.failed) == ("x", "p1", "", False)
    assert found.attributes == {"a": 1, "b": ["y"]} and found.events == [("e", {"c": True})]
