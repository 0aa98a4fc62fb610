"""Decisions as text for the terminal: one a line, or one with everything that was considered."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

import orjson

from serve_app.cli.endpoint import explain_decision, printable
from serve_app.numbers import fixed, usd

_LEFT: Final = 19
"""Width of the time."""


def json_line(record: Mapping[str, Any]) -> str:
    """The record as it is."""
    return orjson.dumps(record, default=dict).decode()


def decision_line(record: Mapping[str, Any]) -> str:
    """Time (UTC), strategy, pool, score against threshold, cost, latency, status and id."""
    parts = [
        _time(record["created_s"]),
        f"{record['strategy']:<12}",
        f"{record['pool']:<8}",
        f"{_scored(record):<15}",
        f"{usd(record['cost_usd']):>12}",
        f"{fixed(record['latency_ms'], 0):>7} ms",
        str(record["decision_id"]),
    ]
    if record["status"] != "completed":
        parts.append(" ".join(str(part) for part in (record["status"], record.get("error_code")) if part))
    if record.get("tenant"):
        parts.append(str(record["tenant"]))
    return printable("  ".join(parts).replace("\n", " "))


def decision_text(record: Mapping[str, Any]) -> str:
    """Several lines: the decision and all that it considered, then what became of the request, then its feedback."""
    rows = [
        ("when", f"{_time(record['created_s'])} UTC, by {record['endpoint']}"),
        ("score", _scored(record) or "-"),
        ("policy", str(record.get("policy_version") or "-")),
        ("status", " ".join(str(p) for p in (record["status"], record.get("error_code")) if p)),
        ("tokens", f"{record['prompt_tokens']:,} read, {record['completion_tokens']:,} written"),
        ("cost", usd(record["cost_usd"])),
        ("latency", f"{fixed(record['latency_ms'], 1)} ms, decided in {fixed(record.get('decision_ms') or 0.0, 3)} ms"),
    ]
    named = ("tenant", "user", "safety_identifier", "task", "adapter", "privacy", "place", "request_id", "prompt")
    rows += [(name.replace("_identifier", ""), str(record[name])) for name in named if record.get(name)]
    for guard, findings in (record.get("guards") or {}).items():
        rows.append((f"guard {guard}", f"{findings} findings"))
    for one in record.get("feedback") or ():
        compared = f"prefers {one['preferred']} against {one['against']}" if one.get("preferred") else ""
        score = "" if one.get("score") is None else f"score {one['score']:g}"
        said = ", ".join(part for part in (score, compared, one.get("comment") or "") if part)
        rows.append(("feedback", f"{_time(one['created_s'])} UTC: {said}"))
    width = max(len(name) for name, _ in rows) + 2
    lines = [f"decision {record['decision_id']}", explain_decision(record)]
    return printable("\n".join([*lines, *(f"{name:<{width}}{text}" for name, text in rows)]))


def _scored(record: Mapping[str, Any]) -> str:
    """The score against the threshold; empty where either is unknown."""
    score, threshold = record.get("score"), record.get("threshold")
    if score is None or threshold is None:
        return ""
    return f"{fixed(score, 3)} {'>=' if score >= threshold else '<'} {fixed(threshold, 3)}"


def _time(seconds: float) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat(sep=" ", timespec="seconds")[:_LEFT]
    except (ValueError, OverflowError, OSError):  # a record of a clock that was wrong
        return f"{seconds:g}"[:_LEFT]
