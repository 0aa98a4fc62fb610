"""The record of a request and the contract of a store. Serving never waits for it: only feedback is awaited."""

import re
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, Protocol

from serve_app.erasure import Origin, Selection
from serve_app.store.filtering import Cursor, DecisionFilter
from serve_app.types import Decision, Privacy, Step, Usage, total_usage

Status = Literal["completed", "failed", "cancelled", "route_only"]
TIE: Final = "tie"
"""`Feedback.preferred` where neither answer was better."""
MOST_FEEDBACK: Final = 100
"""Pieces of feedback on one decision; further ones are refused."""
COLLECTED: Final = "collect-"
"""Prefix of the request ids of `jethro data collect`: its queries are not traffic to learn from."""
NOT_KEPT: Final = "not kept: privacy class local"
"""The reason in the record of a decision of which no content is kept; its caller has received the true one."""
_CODE: Final = re.compile(r"[a-z][a-z_]{0,39}")


@dataclass(slots=True)
class RequestRecord:
    """What became of one request: metrics, log line, and stored decision are made from this.

    Filled in while the request runs, not changed after it has ended. Durations are in ms; None: not reached.

    `parse_ms` is reading and checking the body, `decide_ms` the strategy's decision, `first_byte_ms` the wait for
    the pool from the end of parsing to its first byte (without the decision), `ttft_ms` from the request's arrival
    to the first byte sent, `latency_ms` to the last. Of a stream: `pieces` that were sent, `pieces_ms` from the first
    to the last of them, and the longest time between two.
    """

    request_id: str
    endpoint: str
    created_s: float
    model: str = ""
    stream: bool = False
    tenant: str | None = None
    user: str | None = None
    safety_identifier: str | None = None
    status: Status = "completed"
    http_status: int = 200
    error_code: str | None = None
    decision: Decision | None = None
    steps: tuple[Step, ...] = ()
    unrecorded: bool = False
    """Nothing of its content may be kept; see `without_content`."""
    decision_id: str | None = None
    """Of its decision, also where it failed before there was one: log lines of other processes name it."""
    trace_id: str | None = None
    """Of its trace, if it is sampled: log lines carry it."""
    prompt: str | None = None
    """Kept only if `store.keep_prompts` is set."""
    parse_ms: float | None = None
    decide_ms: float | None = None
    first_byte_ms: float | None = None
    ttft_ms: float | None = None
    latency_ms: float = 0.0
    pieces: int = 0
    pieces_ms: float = 0.0
    longest_gap_ms: float = 0.0
    answered: Usage | None = None
    """Tokens of the answer, where the call that wrote it counts others as well; see `Spent`."""

    @property
    def origin(self) -> Origin:
        """Whose it is; for a record that has a decision."""
        assert self.decision is not None
        users = tuple(u for u in (self.user, self.safety_identifier) if u is not None)
        return Origin(self.decision.id, self.tenant, users, self.created_s)

    def without_content(self) -> "RequestRecord":
        """The same record without what may quote the request or its answer: texts, reasons and feature contributions.

        Ids, names, counts, times and costs stay.
        """
        decision = self.decision
        if decision is not None:
            decision = replace(decision, reason=NOT_KEPT, features={})
        code = self.error_code if self.error_code is None or _CODE.fullmatch(self.error_code) else "error"
        steps = tuple(replace(step, reason="") for step in self.steps)
        return replace(self, decision=decision, steps=steps, prompt=None, error_code=code)

    @property
    def usage(self) -> Usage:
        """Tokens of all model calls together."""
        return total_usage(self.steps)

    @property
    def cost_usd(self) -> float:
        """US dollars of all model calls together."""
        return self.steps[0].cost_usd if len(self.steps) == 1 else sum(s.cost_usd for s in self.steps)

    @property
    def wasted(self) -> Usage:
        """Tokens of the calls that are in no answer."""
        return total_usage([step for step in self.steps if step.wasted])

    @property
    def answer_usage(self) -> Usage:
        """Tokens of the answer: those of the call that wrote it, without further calls that checked it."""
        if self.answered is not None:
            return self.answered
        return next((step.usage for step in self.steps if not step.wasted), Usage())

    @property
    def escalated_from(self) -> frozenset[str]:
        """Pools whose answers were rejected for low confidence, and replaced by another pool's."""
        decision, steps = self.decision, self.steps
        if decision is None or not steps or (len(steps) == 1 and not steps[0].wasted):
            return frozenset()
        if decision.strategy == "ensemble":  # others than the best were not rejected
            return frozenset()
        return frozenset(s.pool for s in steps if s.wasted and not s.failed) - {decision.pool}

    @property
    def wasted_usd(self) -> float:
        """US dollars of the calls that are in no answer."""
        return sum(s.cost_usd for s in self.steps if s.wasted)

    @property
    def usage_to_show(self) -> Usage | None:
        """The usage of all calls if several took tokens; None: the answer's own usage is complete."""
        return self.usage if len(self.steps) > 1 and sum(s.usage.total_tokens > 0 for s in self.steps) > 1 else None


@dataclass(frozen=True, slots=True)
class Feedback:
    """A caller's rating of one answer: `score` in [0, 1], or how it compares with another pool's, or both.

    `preferred` names the pool whose answer was the better one, of the answer's own pool and `against`, or is `TIE`.
    """

    decision_id: str
    score: float | None = None
    comment: str | None = None
    preferred: str | None = None
    against: str | None = None


@dataclass(frozen=True, slots=True)
class Erased:
    """What was deleted."""

    decisions: int
    feedback: int
    responses: int = 0


@dataclass(frozen=True, slots=True)
class KeptResponse:
    """An answer of /v1/responses that a later request may continue. `body` is the response object, `input` its items.

    Both are JSON. `origin` says whose it is; `privacy` is the class that it was given under.
    """

    id: str
    origin: Origin
    privacy: Privacy
    previous_id: str | None
    body: bytes
    input: bytes

    @property
    def size(self) -> int:
        """Bytes of content."""
        return len(self.body) + len(self.input)


class ResponseStore(Protocol):
    """Answers of /v1/responses. Every method raises PoolUnavailable if there is no usable file now.

    A tenant reaches only its own: another's raises NotFound, as one that there is not.
    """

    async def keep(self, response: KeptResponse) -> None:
        """Durable when this returns, unless its user was erased meanwhile. The tenant's oldest ones make room."""

    async def find(self, response_id: str, tenant: str | None) -> KeptResponse:
        """One of them. Raises NotFound."""

    async def chain(self, response_id: str, tenant: str | None, most_bytes: int) -> Sequence[KeptResponse]:
        """It and those that it continues, the first one first.

        Raises NotFound if one of them is gone, RequestError if their content is larger than `most_bytes`.
        """

    async def delete(self, response_id: str, tenant: str | None) -> None:
        """Delete one for good. Raises NotFound."""


class StoreFigures(Protocol):
    """For the metrics: records waiting, and records lost since the start of the process."""

    @property
    def queued(self) -> int:
        """Records that wait for the writer."""

    @property
    def dropped(self) -> int:
        """Records lost because the queue was full."""

    @property
    def failed(self) -> int:
        """Records lost because the write failed."""

    @property
    def restarts(self) -> int:
        """Times that the file was found deleted, replaced or damaged, and was opened or started again."""

    @property
    def away(self) -> bool:
        """Whether there is no usable file now: records wait in memory."""


class Store(StoreFigures, Protocol):
    """Decisions and feedback."""

    @property
    def responses(self) -> ResponseStore:
        """Answers of /v1/responses."""

    async def start(self) -> None:
        """Open the database and start the writer."""

    def record(self, record: RequestRecord) -> None:
        """Queue a request that has a decision for the next batch; never blocks. A full queue drops and counts it."""

    async def feedback(self, feedback: Feedback) -> None:
        """Durable when this returns. Raises NotFound if the decision is unknown, Conflict if it has MOST_FEEDBACK."""

    async def decision(self, decision_id: str, tenant: str | None = None) -> Mapping[str, Any]:
        """The record with its feedback, as JSON-ready values; for a tenant, only of its own. Sees queued records.

        Raises NotFound: after the same work for another tenant's decision as for one that there is not.
        """

    async def erase(self, selection: Selection) -> Erased:
        """Delete records with their feedback, and kept responses.

        Those of earlier requests that are not written yet never will be.
        The deleted bytes are overwritten. Durable when this returns; repeating it does no harm.
        """

    def export(self, selection: Selection) -> AsyncIterator[Sequence[Mapping[str, Any]]]:
        """Records as `decision` returns them, oldest first, in pages."""

    async def newest(self, which: DecisionFilter, before: Cursor | None, most: int) -> Sequence[Mapping[str, Any]]:
        """Up to `most` records of any tenant, the newest first, that precede `before`; as `decision` returns them.

        May lag behind by the time in which records are queued. Raises PoolUnavailable if there is no usable file now,
        or the search takes too long.
        """

    async def aclose(self) -> None:
        """Write what is queued and close."""
