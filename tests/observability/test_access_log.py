import io
import json

import pytest

from serve_app.observability.access_log import JsonLog, NoLog
from tests.observability.test_metrics import request_record


def lines(out: io.StringIO) -> list[dict]:
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_one_line_a_request():
    out = io.StringIO()
    log = JsonLog(out, replica="g1")
    log.write(request_record(tenant="acme"))
    log.write(request_record(decision=None, steps=(), status="failed", http_status=400, error_code="invalid_value"))
    log.close()
    answered, refused = lines(out)
    assert answered.items() >= {
        "event": "request", "replica": "g1", "request_id": "r", "endpoint": "chat", "model": "jethro", "code": 200,
        "status": "completed", "tenant": "acme", "decision_id": "d", "pool": "small", "answered_by": "lab-small",
        "score": 0.2, "threshold": 0.5, "prompt_tokens": 5, "completion_tokens": 3, "cost_usd": 1e-6,
        "latency_ms": 10.0, "ttft_ms": 6.0, "parse_ms": 0.1, "decision_ms": 0.3,
    }.items()  # fmt: skip
    assert (refused["code"], refused["error_code"], refused["status"]) == (400, "invalid_value", "failed")
    assert "pool" not in refused


def test_a_request_that_failed_names_its_decision_and_its_trace():
    out = io.StringIO()
    log = JsonLog(out)
    log.write(request_record(decision=None, steps=(), status="failed", decision_id="d9", trace_id="t9"))
    log.write(request_record(decision=None, steps=(), status="failed"))
    log.close()
    assert [(line["decision_id"], line["trace_id"]) for line in lines(out)] == [("d9", "t9"), (None, None)]


def test_a_prompt_is_never_logged():
    out = io.StringIO()
    log = JsonLog(out)
    log.write(request_record(prompt="a secret"))
    log.close()
    assert "a secret" not in out.getvalue()


def test_text_of_callers_cannot_break_a_line():
    out = io.StringIO()
    log = JsonLog(out)
    one = request_record()
    one.model = 'x\n{"event":"forged"}'
    log.write(one)
    log.close()
    assert [line["model"] for line in lines(out)] == ['x\n{"event":"forged"}']


def test_a_line_that_cannot_be_written_loses_only_itself_and_is_counted():
    out = io.StringIO()
    log = JsonLog(out)
    odd = request_record()
    odd.model = "\ud800"
    for one in (odd, request_record()):
        log.write(one)
    log.close()
    kept, lost = lines(out)
    assert (kept["model"], lost) == ("jethro", {"event": "log_lines_lost", "lines": 1})


def test_closing_twice_and_writing_in_between_is_harmless():
    out = io.StringIO()
    log = JsonLog(out)
    log.close()
    log.close()
    assert out.getvalue() == ""


def test_what_a_slow_reader_loses_is_said():
    out = io.StringIO()
    log = JsonLog(out, queue=3, flush_s=60.0)
    for i in range(5):
        log.write(request_record(latency_ms=float(i)))
    log.close()
    assert [line["latency_ms"] for line in lines(out)[:3]] == [2.0, 3.0, 4.0]
    assert lines(out)[3] == {"event": "log_lines_lost", "lines": 2}


def test_a_closed_stream_ends_the_log_quietly():
    out = io.StringIO()
    log = JsonLog(out)
    out.close()
    log.write(request_record())
    log.close()


@pytest.mark.parametrize("times", [1, 3])
def test_no_log(times):
    log = NoLog()
    for _ in range(times):
        log.write(request_record())
    log.close()
