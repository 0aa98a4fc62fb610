"""How a decision is shown to the caller: response headers, and the `jethro` object in the body."""

from dataclasses import asdict
from typing import Any

import orjson

from serve_app.api.reply import Headers, header_text
from serve_app.observability.outcome import Outcome
from serve_app.types import Decision, Usage


def decision_headers(decision: Decision) -> Headers:
    """What is known when the first byte is."""
    headers = [
        (b"x-jethro-decision-id", header_text(decision.id)),
        (b"x-jethro-strategy", header_text(decision.strategy)),
        (b"x-jethro-pool", header_text(decision.pool)),
        (b"x-jethro-model", header_text(decision.model)),
    ]
    if decision.score is not None:
        headers.append((b"x-jethro-score", b"%.6g" % decision.score))
    if decision.threshold is not None:
        headers.append((b"x-jethro-threshold", b"%.6g" % decision.threshold))
    if decision.policy_version:
        headers.append((b"x-jethro-policy", header_text(decision.policy_version)))
    return headers


def timing_headers(outcome: Outcome, elapsed_ms: float) -> Headers:
    """Milliseconds spent until now: in reading and checking, in the decision, in the pool, and altogether."""
    timing = b"parse;dur=%.3f, decide;dur=%.3f, pool;dur=%.3f, total;dur=%.3f" % (
        outcome.parse_ms or 0.0,
        outcome.decide_ms or 0.0,
        outcome.first_byte_ms or 0.0,
        elapsed_ms,
    )
    return [(b"server-timing", timing), (b"openai-processing-ms", b"%d" % round(elapsed_ms))]


def jethro_object(decision: Decision, outcome: Outcome) -> bytes:
    """The `jethro` object, as JSON: the decision, what it cost, and every call made if there was more than one."""
    body = _told(decision)
    body["cost_usd"] = outcome.cost_usd
    if len(outcome.steps) > 1:
        body["steps"] = [asdict(step) for step in outcome.steps]
        body["wasted"] = {**outcome.wasted.to_openai(), "cost_usd": outcome.wasted_usd}
    return orjson.dumps(body)


def spent_headers(outcome: Outcome) -> Headers:
    """What the answer cost, and what of it was wasted; known when it is whole."""
    headers = [(b"x-jethro-cost-usd", b"%.6g" % outcome.cost_usd)]
    wasted = outcome.wasted
    if wasted.total_tokens:
        headers.append((b"x-jethro-wasted-tokens", b"%d" % wasted.total_tokens))
        headers.append((b"x-jethro-wasted-usd", b"%.6g" % outcome.wasted_usd))
    return headers


def with_usage(body: bytes, usage: Usage | None) -> bytes:
    """`body`, a JSON object with OpenAI's usage, counting `usage` instead of its own; None: as it is."""
    return body if usage is None else orjson.dumps({**orjson.loads(body), "usage": usage.to_openai()})


def spliced(body: bytes, jethro: bytes) -> bytes:
    """`body`, a JSON object with at least one key, with the `jethro` object as its last."""
    return body.rstrip()[:-1] + b',"jethro":' + jethro + b"}"


def decision_json(decision: Decision) -> dict[str, Any]:
    """The whole decision, as /v1/route gives it."""
    return {
        **_told(decision),
        "expected": {action: dict(figures) for action, figures in decision.expected.items()},
        "features": dict(decision.features),
    }


def _told(decision: Decision) -> dict[str, Any]:
    """What every caller is told of a decision."""
    return {
        "decision_id": decision.id,
        "strategy": decision.strategy,
        "pool": decision.pool,
        "model": decision.model,
        "reason": decision.reason,
        "score": decision.score,
        "threshold": decision.threshold,
        "router": decision.router,
        "policy_version": decision.policy_version,
        "decision_ms": round(decision.decision_ms, 3),
    }
