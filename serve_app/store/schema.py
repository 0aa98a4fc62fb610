"""The tables of the decision log, and how a record becomes a row and a row becomes JSON again."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson
from sqlalchemy import Column, Float, ForeignKey, Integer, MetaData, String, Table, Text

from serve_app.store.base import DecisionRecord

VERSION: Final = 2
"""In `PRAGMA user_version`; raised with every change of the tables."""
APPLICATION_ID: Final = 0x4A455448
"""In `PRAGMA application_id`: tells our files from other SQLite files ("JETH")."""

JUDGEMENT: Final = ("score", "preferred", "against", "comment", "created_s")
"""What is shown of feedback."""

metadata = MetaData()
decisions = Table(
    "decisions",
    metadata,
    Column("decision_id", String, primary_key=True),
    Column("created_s", Float, nullable=False, index=True),
    Column("request_id", String, nullable=False),
    Column("tenant", String),
    Column("endpoint", String, nullable=False),
    Column("status", String, nullable=False),
    Column("strategy", String, nullable=False),
    Column("pool", String, nullable=False),
    Column("model", String, nullable=False),
    Column("router", String),
    Column("score", Float),
    Column("threshold", Float),
    Column("reason", Text, nullable=False),
    Column("policy_version", String, nullable=False),
    Column("decision_ms", Float, nullable=False),
    Column("expected", Text, nullable=False),
    Column("features", Text, nullable=False),
    Column("prompt_tokens", Integer, nullable=False),
    Column("completion_tokens", Integer, nullable=False),
    Column("cost_usd", Float, nullable=False),
    Column("latency_ms", Float, nullable=False),
    Column("ttft_ms", Float),
    Column("error_code", String),
    Column("prompt", Text),
)
feedback = Table(
    "feedback",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("decision_id", String, ForeignKey("decisions.decision_id"), nullable=False, index=True),
    Column("score", Float),
    Column("preferred", String),
    Column("against", String),
    Column("comment", Text),
    Column("created_s", Float, nullable=False),
)


def row(record: DecisionRecord) -> dict[str, Any]:
    """The row of a record."""
    d = record.decision
    return {
        "decision_id": d.id,
        "created_s": record.created_s,
        "request_id": record.request_id,
        "tenant": record.tenant,
        "endpoint": record.endpoint,
        "status": record.status,
        "strategy": d.strategy,
        "pool": d.pool,
        "model": d.model,
        "router": d.router,
        "score": d.score,
        "threshold": d.threshold,
        "reason": d.reason,
        "policy_version": d.policy_version,
        "decision_ms": d.decision_ms,
        "expected": orjson.dumps({action: dict(figures) for action, figures in d.expected.items()}).decode(),
        "features": orjson.dumps(dict(d.features)).decode(),
        "prompt_tokens": record.usage.prompt_tokens,
        "completion_tokens": record.usage.completion_tokens,
        "cost_usd": record.cost_usd,
        "latency_ms": record.latency_ms,
        "ttft_ms": record.ttft_ms,
        "error_code": record.error_code,
        "prompt": record.prompt,
    }


def as_json(decision: Mapping[str, Any], judgements: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A decision's row with its feedback, oldest first, as JSON-ready values."""
    value = {str(name): field for name, field in decision.items()}  # SQLAlchemy's names are a kind of their own
    value["expected"] = orjson.loads(value["expected"])
    value["features"] = orjson.loads(value["features"])
    value["feedback"] = [{k: j[k] for k in JUDGEMENT} for j in judgements]
    return value
