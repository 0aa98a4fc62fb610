"""The server span of a request, described from its record when it is over: what was decided, spent and answered.

Names, numbers and codes, nothing that anybody wrote: the reasons of a decision stay in the decision log.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from serve_app.store.base import RequestRecord
from serve_app.tracing.spans import Attributes, NotSampled, TraceSpan, checked_code
from serve_app.types import Decision

_BEGUN: Final = 200
"""The status of a stream that broke: it was sent before."""


def begin_attributes(endpoint: str, path: str, request_id: str, tenant: str | None) -> Attributes:
    """What is known when a request arrives."""
    from serve_app.tracing import names

    return {
        names.METHOD: "POST",
        names.ROUTE: path,
        names.PATH: path,
        names.OPERATION: names.OPERATIONS.get(endpoint),
        "jethro.request_id": request_id,
        "jethro.tenant": tenant,
    }


@contextmanager
def described(span: TraceSpan | NotSampled, record: RequestRecord, path: str) -> Iterator[None]:
    """The body answers the request of `record` and settles it; the span, if it is one, ends with it."""
    if not isinstance(span, TraceSpan):
        yield
        return
    record.trace_id = span.trace_id
    span.set(begin_attributes(record.endpoint, path, record.request_id, record.tenant))
    try:
        yield
    finally:
        finish(span, record)


def finish(span: TraceSpan, record: RequestRecord) -> None:
    """Describe the request and end its span. What its caller broke off is no failure."""
    code = None if record.error_code is None else checked_code(record.error_code)
    span.set(_spent(record))
    if record.decision is not None:
        span.set({**decision_attributes(record.decision), **_answered_by(record.decision)})
    span.answered(record.http_status, code)
    if record.status == "failed" and record.http_status == _BEGUN:
        span.failed(code or "internal_error")
    if record.status == "cancelled":
        span.set({"jethro.cancelled": True})
    span.end()


def decision_attributes(decision: Decision) -> Attributes:
    """A decision, without the words of its reason."""
    return {
        "jethro.decision_id": decision.id,
        "jethro.strategy": decision.strategy,
        "jethro.pool": decision.pool,
        "jethro.score": decision.score,
        "jethro.threshold": decision.threshold,
        "jethro.router": decision.router,
        "jethro.policy_version": decision.policy_version or None,
        "jethro.decision_ms": decision.decision_ms,
        "jethro.task": decision.task,
        "jethro.adapter": decision.adapter,
        "jethro.privacy": decision.privacy,
        "jethro.place": decision.place,
    }


def note_decision(span: TraceSpan | None, decision: Decision) -> None:
    """What was decided, on the span of deciding it, if that is recorded."""
    if span is not None:
        span.set(decision_attributes(decision))


def _answered_by(decision: Decision) -> Attributes:
    from serve_app.tracing import names

    return {names.RESPONSE_MODEL: decision.model}


def _spent(record: RequestRecord) -> Attributes:
    from serve_app.tracing import names

    usage, called = record.usage, bool(record.steps)
    return {
        names.REQUEST_MODEL: record.model[:200] or None,
        names.STREAM: record.stream,
        names.INPUT_TOKENS: usage.prompt_tokens if called else None,
        names.OUTPUT_TOKENS: usage.completion_tokens if called else None,
        "jethro.decision_id": record.decision_id,
        "jethro.status": record.status,
        "jethro.calls": len(record.steps),
        "jethro.cost_usd": record.cost_usd if called else None,
        "jethro.wasted_tokens": record.wasted.total_tokens or None,
        "jethro.ttft_ms": record.ttft_ms,
    }
