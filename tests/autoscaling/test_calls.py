"""Calls of a decision log, and the trace they make."""

import math
from pathlib import Path
from typing import Any

import pytest

from serve_app.autoscaling.traces import PoolCall, logged, trace_of
from serve_app.errors import ConfigError, DataError
from serve_app.store.base import RequestRecord
from serve_app.store.sqlite import Database
from serve_app.types import Decision, Step, Usage


def record(number: int, pool: str, created_s: float, **changes: Any) -> RequestRecord:
    decision = Decision(id=f"d{number}", strategy="route", pool=pool, model=pool, reason="r", policy_version="v1")
    values: dict[str, Any] = {
        "request_id": f"r{number}",
        "created_s": created_s,
        "endpoint": "chat",
        "status": "completed",
        "steps": (Step(pool, "chosen", Usage(5, 40)),),
        "latency_ms": 900.0,
        "ttft_ms": 150.0,
    }
    return RequestRecord(decision=decision, **{**values, **changes})


def log(path: Path, records: list[RequestRecord]) -> Path:
    database = Database(str(path))
    database.write(records)
    database.close()
    return path


def test_a_log_is_read_from_its_first_call(tmp_path: Path) -> None:
    records = [
        record(2, "large", 1012.0),
        record(1, "small", 1010.0, steps=(Step("p", "chosen", Usage(5, 3)),), latency_ms=200.0, ttft_ms=50.0),
        record(3, "middle", 1011.0),
        record(4, "large", 1011.5, status="route_only"),
        record(5, "large", 1013.0, status="failed", ttft_ms=None, steps=(Step("p", "chosen", Usage(5, 0)),)),
    ]
    found = logged(log(tmp_path / "log.sqlite3", records))
    assert found[:2] == [
        PoolCall(0.0, "small", 3.0, 0.0, 0.05, 0.2),
        PoolCall(2.0, "large", 40.0, 0.0, 0.15, 0.9),
    ]
    assert len(found) == 3 and math.isnan(found[2].ttft_s) and math.isnan(found[2].service_s)


def test_a_trace_is_in_order_and_has_a_token_each() -> None:
    made = [PoolCall(2.0, "large", 7.0, 0.0, 0.1, 0.2), PoolCall(1.0, "small", 0.0, 0.0, math.nan, math.nan)]
    trace = trace_of(made, "mine", 5.0)
    assert (trace.at_s.tolist(), trace.strong.tolist(), trace.tokens.tolist()) == (
        [1.0, 2.0],
        [False, True],
        [1.0, 7.0],
    )
    assert (trace.name, trace.duration_s) == ("mine", 5.0)


def test_a_log_without_calls_and_no_log_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="small or large"):
        logged(log(tmp_path / "empty.sqlite3", [record(1, "middle", 1.0)]))
    with pytest.raises(ConfigError, match="no such file"):
        logged(tmp_path / "missing.sqlite3")
