"""The contract of a store. Serving never waits for it: decisions are queued, feedback alone is awaited."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from serve_app.types import Decision, Usage

TIE: Final = "tie"
"""`Feedback.preferred` where neither answer was better."""
COLLECTED: Final = "collect-"
"""How the request ids of `jethro data collect` begin: what it asks is no traffic to learn from again."""


@dataclass(frozen=True, slots=True)
class DecisionRecord:
    """A decision with what became of it. `status` is `completed`, `failed`, `cancelled` or `route_only`."""

    decision: Decision
    request_id: str
    created_s: float
    endpoint: str
    status: str
    usage: Usage
    cost_usd: float
    latency_ms: float
    ttft_ms: float | None = None
    error_code: str | None = None
    tenant: str | None = None
    prompt: str | None = None
    """Kept only if `store.keep_prompts` is set."""


@dataclass(frozen=True, slots=True)
class Feedback:
    """A caller's judgement of one answer: `score` in [0, 1], or how it compares with another pool's, or both.

    `preferred` names the pool whose answer was the better one, of the answer's own pool and `against`, or is `TIE`.
    """

    decision_id: str
    score: float | None = None
    comment: str | None = None
    preferred: str | None = None
    against: str | None = None


class StoreFigures(Protocol):
    """What a store tells the metrics: records waiting, and lost by a full queue or a failed write, since the start."""

    @property
    def queued(self) -> int:
        """Records that wait for the writer."""

    @property
    def dropped(self) -> int:
        """Records lost because the queue was full."""

    @property
    def failed(self) -> int:
        """Records lost because the write failed."""


class Store(StoreFigures, Protocol):
    """Decisions and feedback."""

    async def start(self) -> None:
        """Open the database and start the writer."""

    def record(self, record: DecisionRecord) -> None:
        """Queue a decision for the next batch; never blocks. A full queue drops and counts it."""

    async def feedback(self, feedback: Feedback) -> None:
        """Durable when this returns. Raises NotFound if the decision is unknown."""

    async def decision(self, decision_id: str) -> Mapping[str, Any]:
        """The record with its feedback, as JSON-ready values. Raises NotFound. Sees queued records as well."""

    async def aclose(self) -> None:
        """Write what is queued and close."""
