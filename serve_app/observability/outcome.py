"""What became of one request: the one record from which metrics, log line and stored decision are made."""

from dataclasses import dataclass
from typing import Literal

from serve_app.store.base import DecisionRecord
from serve_app.types import Decision, Step, Usage

Status = Literal["completed", "failed", "cancelled", "route_only"]


@dataclass(slots=True)
class Outcome:
    """Filled in while the request runs. Durations are milliseconds; None means: did not come so far.

    `parse_ms` is reading and checking the body, `decide_ms` the strategy's decision, `first_byte_ms` the wait for
    the pool from the end of parsing to its first byte (without the decision), `ttft_ms` from the request's arrival
    to the first byte sent, `latency_ms` to the last.
    """

    request_id: str
    endpoint: str
    created_s: float
    model: str = ""
    stream: bool = False
    tenant: str | None = None
    status: Status = "completed"
    http_status: int = 200
    error_code: str | None = None
    decision: Decision | None = None
    steps: tuple[Step, ...] = ()
    prompt: str | None = None
    parse_ms: float | None = None
    decide_ms: float | None = None
    first_byte_ms: float | None = None
    ttft_ms: float | None = None
    latency_ms: float = 0.0

    @property
    def usage(self) -> Usage:
        """Tokens of all model calls together."""
        if len(self.steps) == 1:
            return self.steps[0].usage
        return Usage(sum(s.usage.prompt_tokens for s in self.steps), sum(s.usage.completion_tokens for s in self.steps))

    @property
    def cost_usd(self) -> float:
        """US dollars of all model calls together."""
        return self.steps[0].cost_usd if len(self.steps) == 1 else sum(s.cost_usd for s in self.steps)

    @property
    def wasted(self) -> Usage:
        """Tokens of the calls that are in no answer."""
        lost = [s.usage for s in self.steps if s.wasted]
        return Usage(sum(u.prompt_tokens for u in lost), sum(u.completion_tokens for u in lost))

    @property
    def wasted_usd(self) -> float:
        """US dollars of those calls."""
        return sum(s.cost_usd for s in self.steps if s.wasted)

    @property
    def usage_to_show(self) -> Usage | None:
        """The usage of all calls, where more than one took tokens; None: that of the answer itself is all there is."""
        return self.usage if sum(s.usage.total_tokens > 0 for s in self.steps) > 1 else None

    def record(self) -> DecisionRecord | None:
        """The row for the store; None if it never came to a decision."""
        if self.decision is None:
            return None
        return DecisionRecord(
            decision=self.decision,
            request_id=self.request_id,
            created_s=self.created_s,
            endpoint=self.endpoint,
            status=self.status,
            usage=self.usage,
            cost_usd=self.cost_usd,
            latency_ms=self.latency_ms,
            ttft_ms=self.ttft_ms,
            error_code=self.error_code,
            tenant=self.tenant,
            prompt=self.prompt,
        )
