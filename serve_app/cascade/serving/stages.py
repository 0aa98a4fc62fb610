"""The stages of a cascade run: the levels that can be called for a query, and what came of each call."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from time import perf_counter

from serve_app.cascade.base import Chain, Level, Needs
from serve_app.errors import JethroError
from serve_app.numbers import fixed, significant
from serve_app.pools.attempt import lacking, refusal, why_skipped
from serve_app.pools.base import Pool
from serve_app.pools.pending import PendingStream
from serve_app.types import Query, Step, Usage
from serve_app.wire.answers import AnswerReader
from serve_app.wire.frames import Answer, Call, Frame

NO_NEEDS = Needs()


@dataclass(frozen=True, slots=True, eq=False)
class Stage:
    """A level that can be called. `checked`: its answer is taken only if it convinces; otherwise always.

    `reserve`: called only while no stage has an answer. `needs`: what is requested of the pool for the signal.
    """

    level: Level
    pool: Pool
    checked: bool
    reserve: bool = False
    needs: Needs = NO_NEEDS


@dataclass(frozen=True, slots=True)
class LevelConfidence:
    """How sure an answer of a level is. `value`: the raw signal, nan where undefined; `probability`: of being correct.

    `threshold` is nan where no threshold decides. `why`: what rules the answer out whatever its probability.
    """

    pool: str
    signal: str
    value: float
    probability: float
    threshold: float
    ms: float
    why: str = ""

    @property
    def accepted(self) -> bool:
        """Whether the answer is taken."""
        return not self.why and self.probability >= self.threshold

    def __str__(self) -> str:
        if self.why:
            return self.why
        if math.isnan(self.value):
            return f"{self.signal} is undefined"
        found = f"{self.signal} {significant(self.value, 4)}, P(correct) {fixed(self.probability, 3)}"
        if math.isnan(self.threshold):
            return found
        return f"{found} {'>=' if self.accepted else '<'} {fixed(self.threshold, 3)}"


@dataclass(slots=True, eq=False)
class StageResult:
    """A stage that was called: its answer so far, the confidence in it, and every call made for it.

    `sent`: the query as the pool has it. `stream`: while it is open and more may come. `samples` and `verdicts` (by
    choice): of the further calls that the signal needs. `interrupted`: why the call was cut off.
    """

    stage: Stage
    sent: Query
    call: Call
    stream: PendingStream | None = None
    reading: AnswerReader = field(init=False)
    answer: Answer | None = None
    frames: list[Frame] = field(default_factory=list)
    samples: tuple[str, ...] = ()
    verdicts: Mapping[int, tuple[float, ...]] = field(default_factory=dict)
    confidence: LevelConfidence | None = None
    steps: list[Step] = field(default_factory=list)
    recorded: bool = False
    """Whether the steps hold the call for the answer itself, not only further ones."""
    error: JethroError | None = None
    interrupted: str = ""
    ended_ms: float | None = None
    started: float = field(default_factory=perf_counter)

    def __post_init__(self) -> None:
        self.reading = AnswerReader(self.sent)

    @property
    def whole(self) -> bool:
        """Whether the answer is complete."""
        return self.error is None and (self.answer is not None or self.reading.finished)

    @property
    def accepted(self) -> bool:
        """Whether this answer is taken: it convinces, or is not checked and has begun."""
        if not self.stage.checked:
            return self.error is None and (self.stream is not None or self.whole)
        return self.confidence is not None and self.confidence.accepted

    @property
    def probability(self) -> float:
        """Of being correct; 0 while unknown."""
        return self.confidence.probability if self.confidence is not None else 0.0

    @property
    def prompt_tokens(self) -> int:
        """As far as the pool has reported them."""
        if self.recorded:
            return self.steps[0].usage.prompt_tokens
        return self.reading.usage.prompt_tokens if self.reading.usage is not None else 0

    @property
    def elapsed_ms(self) -> float:
        """Since the call."""
        return (perf_counter() - self.started) * 1e3

    def record(self, reason: str, usage: Usage, *, further: bool = False) -> None:
        """Record a call that has ended: the one for the answer, which is listed first, or a `further` one."""
        pool = self.stage.pool
        ms = self.elapsed_ms if self.ended_ms is None else self.ended_ms
        step = Step(pool.name, reason, usage, pool.price.cost_usd(usage, self.sent.adapter), ms)
        self.steps.insert(len(self.steps) if further else 0, step)
        self.recorded = self.recorded or not further

    def ask_again(self, sent: Query) -> None:
        """Forget the answer to the query sent before, whose call is recorded, for the one to `sent`."""
        self.sent, self.answer, self.frames = sent, None, []
        self.reading = AnswerReader(sent)

    def fail(self, error: JethroError) -> None:
        """Record that the call gave no answer."""
        self.error, self.recorded = error, True
        name, reason = self.stage.pool.name, f"failed: {error.code}"
        self.steps.append(Step(name, reason, latency_ms=self.elapsed_ms, wasted=True, failed=True))


def plan_stages(chain: Chain, pools: Mapping[str, Pool], query: Query) -> tuple[list[Stage], list[str]]:
    """The stages in calling order, and notes on the levels that are left out or put last.

    The last level that can honour the query is not checked, as no other could answer instead. A level whose pool
    cannot return what its signal needs is a reserve. Raises UnsupportedParameter if no level can honour the query.
    """
    found = [(level, pools[level.pool], lacking(query, pools[level.pool])) for level in chain.levels]
    able = [(level, pool) for level, pool, lack in found if not lack]
    lacks = [(pool, lack) for _, pool, lack in found if lack]
    if not able:
        raise refusal(lacks[-1][1], " or ".join(pool.model for pool, _ in lacks))
    notes = [why_skipped(pool.model, lack) for pool, lack in lacks]
    stages, reserve = [], []
    for level, pool in able[:-1]:
        needs = level.signal.needs if level.signal is not None else NO_NEEDS
        if level.signal is not None and (pool.capabilities.logprobs or not needs.logprobs):
            stages.append(Stage(level, pool, checked=True, needs=needs))
        else:
            notes.append(f"{pool.model} has no confidence without log-probabilities")
            reserve.append(Stage(level, pool, checked=False, reserve=True))
    return [*stages, Stage(*able[-1], checked=False), *reserve], notes
