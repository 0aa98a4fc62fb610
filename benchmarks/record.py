"""What became of one request, with the times it was seen at (seconds on the machine's monotonic clock)."""

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

Outcome = Literal["ok", "refused", "lost", "error_event", "cut", "timeout"]
"""refused: a true HTTP error status. lost: the connection failed before a status. error_event: an answer that had begun
ended with an error event. cut: it had begun and ended with neither that nor [DONE]. timeout: the client gave up."""


@dataclass(slots=True)
class Record:
    """One request. `due_s` is when it should have been sent: the send itself in a closed loop, the schedule in an open
    one, and every latency counts from it, so that a slow server cannot hide its own queue (coordinated omission)."""

    index: int
    due_s: float
    sent_s: float
    end_s: float
    outcome: Outcome
    status: int = 0
    detail: str = ""
    token_s: list[float] = field(default_factory=list)
    """When each event with text arrived."""
    prompt_tokens: int = 0
    output_tokens: int = 0
    pool: str | None = None
    text: str = ""

    @property
    def ok(self) -> bool:
        """Whether the answer came whole."""
        return self.outcome == "ok"

    @property
    def before_first_byte(self) -> bool:
        """Whether it failed with no byte of an answer sent."""
        return not self.ok and self.status != 200

    @property
    def e2el_s(self) -> float:
        """Due time to last byte."""
        return self.end_s - self.due_s

    @property
    def ttft_s(self) -> float | None:
        """Due time to first token; None if no token came."""
        return self.token_s[0] - self.due_s if self.token_s else None

    @property
    def tpot_s(self) -> float | None:
        """(E2EL − TTFT) / (output tokens − 1); None for fewer than two tokens."""
        if self.ttft_s is None or self.output_tokens < 2:
            return None
        return (self.e2el_s - self.ttft_s) / (self.output_tokens - 1)

    @property
    def itl_s(self) -> list[float]:
        """Gaps between successive events with text; events that arrived in one read have gaps of 0."""
        return [b - a for a, b in pairwise(self.token_s)]

    @property
    def lag_s(self) -> float:
        """How late the client itself sent it."""
        return self.sent_s - self.due_s
