"""One query's way up a chain: which levels can be asked, what became of each, and how that is told.

Asks nobody itself. Steps of a level whose answer was not taken are marked wasted, those of the taken one are not.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isnan
from time import perf_counter

from serve_app.cascade.base import Chain, Level, Needs
from serve_app.cascade.serving.confidence import Judgement, features_of
from serve_app.errors import JethroError
from serve_app.pools.attempt import may_fall_back, most_telling, refusal, unmet
from serve_app.pools.base import Pool
from serve_app.strategy import Spent
from serve_app.types import Decision, Query, Step, Usage
from serve_app.wire.answers import Reading
from serve_app.wire.frames import Answer, Frame

NOTHING = Needs()


@dataclass(frozen=True, slots=True)
class Way:
    """A level that can be asked. `judged`: its answer must convince; otherwise it is taken as it comes.

    `reserve`: it is asked only if nobody else has an answer.
    """

    level: Level
    pool: Pool
    judged: bool
    reserve: bool = False
    needs: Needs = NOTHING
    """What its judge must be given."""


@dataclass(slots=True)
class Visit:
    """A level that was asked: what it said so far, what was judged of it, and every call made for it."""

    way: Way
    sent: Query
    reading: Reading
    answer: Answer | None = None
    frames: list[Frame] = field(default_factory=list)
    judgement: Judgement | None = None
    steps: list[Step] = field(default_factory=list)
    noted: bool = False
    """Whether the steps hold the call for the answer itself, not only those beside it."""
    error: JethroError | None = None
    cancelled: str = ""
    ended_ms: float | None = None
    started: float = field(default_factory=perf_counter)

    @property
    def whole(self) -> bool:
        """Whether a whole answer is at hand."""
        return self.error is None and (self.answer is not None or self.reading.finished)

    @property
    def accepted(self) -> bool:
        """Whether this answer is the one: it convinced, or need not."""
        if not self.way.judged:
            return self.whole
        return self.judgement is not None and self.judgement.accepted

    @property
    def probability(self) -> float:
        """Of being right, as judged; 0 unjudged."""
        return self.judgement.probability if self.judgement is not None else 0.0

    def spent(self, reason: str, usage: Usage, *, beside: bool = False) -> None:
        """Note a call that has ended: that for the answer, before all others, or one made `beside` it."""
        pool = self.way.pool
        ms = self.elapsed_ms if self.ended_ms is None else self.ended_ms
        step = Step(pool.name, reason, usage, pool.price.cost_usd(usage), ms)
        self.steps.insert(len(self.steps) if beside else 0, step)
        self.noted = self.noted or not beside

    @property
    def elapsed_ms(self) -> float:
        """Since it was asked."""
        return (perf_counter() - self.started) * 1e3


def ways_up(chain: Chain, pools: Mapping[str, Pool], query: Query) -> tuple[list[Way], list[str]]:
    """The levels in the order in which they are asked, and why others are not.

    The last that can honour the query is never judged: nobody is left to ask instead. A level that cannot give what
    its judge needs is asked last of all, should the others fail. Raises UnsupportedParameter if none can honour it.
    """
    able: list[tuple[Level, Pool]] = []
    lacks: list[tuple[Pool, str]] = []
    for level in chain.levels:
        pool = pools[level.pool]
        lacking = unmet(query, pool.capabilities)
        if lacking:
            lacks.append((pool, lacking))
        else:
            able.append((level, pool))
    if not able:
        raise refusal(lacks[-1][1], " or ".join(pool.model for pool, _ in lacks))
    notes = [f"{pool.model} does not support {lacking}" for pool, lacking in lacks]
    ways, reserve = [], []
    for level, pool in able[:-1]:
        needs = level.signal.needs if level.signal is not None else NOTHING
        if level.signal is not None and (pool.capabilities.logprobs or not needs.logprobs):
            ways.append(Way(level, pool, judged=True, needs=needs))
        else:
            notes.append(f"{pool.model} cannot be judged without log-probabilities")
            reserve.append(Way(level, pool, judged=False, reserve=True))
    return [*ways, Way(*able[-1], judged=False), *reserve], notes


class Ascent:
    """Keeps what happened. `prior`: the router's score, where a judge wanted it or the strategy did."""

    def __init__(
        self, strategy: str, chain: Chain, decision_id: str, ways: Sequence[Way], notes: Sequence[str]
    ) -> None:
        self.ways = list(ways)
        self.visits: list[Visit] = []
        self.prior: float | None = None
        self.prior_ms = 0.0
        self._strategy, self._chain, self._id = strategy, chain, decision_id
        self._notes = list(notes)

    def pass_over(self, limits: Mapping[str, float]) -> None:
        """Ask levels that the prior rules out last of all, should the others fail; `limits` by pool."""
        prior = self.prior
        if prior is None:
            return
        kept, ruled_out = [], []
        for way in self.ways:
            limit = limits.get(way.pool.name, 1.0)
            if way.judged and prior > limit:
                self.note(f"no answer of {way.pool.model} could convince (prior {prior:.3f} > {limit:.3f})")
                ruled_out.append(Way(way.level, way.pool, judged=False, reserve=True))
            else:
                kept.append(way)
        self.ways = [*kept, *ruled_out]

    def visit(self, way: Way, sent: Query) -> Visit:
        """A level is asked now."""
        visit = Visit(way, sent, Reading(sent))
        self.visits.append(visit)
        return visit

    def note(self, text: str) -> None:
        """Something that the Decision's reason tells."""
        self._notes.append(text)

    @property
    def best(self) -> Visit | None:
        """The whole answer at hand that is likeliest to be right."""
        return max((v for v in self.visits if v.whole), key=lambda v: v.probability, default=None)

    def failed(self, visit: Visit, error: JethroError, rest: Sequence[Way]) -> None:
        """A level gave no answer; `rest` can still be asked. Raises the most telling error if none of them may do
        better, and nobody who was asked has begun an answer that could be given instead.
        """
        visit.error = error
        pool = visit.way.pool
        step = Step(pool.name, f"failed: {error.code}", latency_ms=visit.elapsed_ms, wasted=True, failed=True)
        visit.steps.append(step)
        visit.noted = True
        self.note(f"{pool.model} failed: {error.code}")
        if not rest or any(v.error is None and (v.whole or v.judgement is not None) for v in self.visits):
            return
        if not any(may_fall_back(error, pool.capabilities, way.pool.capabilities) for way in rest):
            raise self.telling_error

    @property
    def telling_error(self) -> JethroError:
        """What the caller is told if nobody answers."""
        return most_telling([(v.error, v.way.pool.capabilities) for v in self.visits if v.error is not None])

    def decision(self, taken: Visit) -> Decision:
        """The decision, once `taken` has given its first byte, or is held whole."""
        judgements = [v.judgement for v in self.visits if v.judgement is not None]
        last = judgements[-1] if judgements else None
        told = [f"{j.pool}: {j}" for j in judgements]
        said = "; ".join([*told, *self._notes, f"{taken.way.pool.model} answers"])
        ms = self.prior_ms + sum(j.ms for j in judgements)
        deciding = taken.judgement or last
        return self._told(
            taken.way.pool,
            said,
            score=None if deciding is None else deciding.probability,
            threshold=None if deciding is None or isnan(deciding.threshold) else deciding.threshold,
            features=features_of(judgements, self.prior),
            decision_ms=ms,
            expected=self._expected({j.pool: j.probability for j in judgements}),
        )

    def outlook(self) -> Decision:
        """What would be done, nobody asked."""
        words = []
        for way in self.ways:
            signal = way.level.signal
            if way.judged and signal is not None:
                words.append(f"{way.pool.model}, if {signal.name} says right with {way.level.threshold:.3f} or more")
            else:
                words.append(way.pool.model)
        reason = "; ".join(["asks " + ", then ".join(words), *self._notes])
        first = self.ways[0]
        threshold = first.level.threshold if first.judged else None
        features = {} if self.prior is None else {"prior": round(self.prior, 6)}
        return self._told(
            first.pool,
            reason,
            threshold=threshold,
            features=features,
            decision_ms=self.prior_ms,
            expected=self._expected({}),
        )

    def spent(self, taken: Visit) -> Spent:
        """Every call, in the order in which the levels were asked.

        A call that was cut off told no usage: its prompt counts as many tokens as in the taken one, and of its answer
        those that came.
        """
        return Spent(self._steps(taken))

    def standing(self) -> tuple[Step, ...]:
        """Every call so far, for a request that ends without an answer: all are wasted. No usage is guessed."""
        return self._steps(None)

    def _steps(self, taken: Visit | None) -> tuple[Step, ...]:
        prompt = _read(taken) if taken is not None else max(map(_read, self.visits), default=0)
        steps: list[Step] = []
        for visit in self.visits:
            if not visit.noted:
                reason = visit.cancelled or (str(visit.judgement) if visit.judgement is not None else "cut off")
                visit.spent(reason, visit.reading.usage or Usage(prompt, visit.reading.written))
            steps += [s if visit is taken else replace(s, wasted=True) for s in visit.steps]
        return tuple(steps)

    def _told(self, pool: Pool, reason: str, **rest: object) -> Decision:
        version = self._chain.version
        return Decision(self._id, self._strategy, pool.name, pool.model, reason, policy_version=version, **rest)  # type: ignore[arg-type]

    def _expected(self, right: Mapping[str, float]) -> dict[str, dict[str, float]]:
        """The chain as it was fitted, and the probability of each answer that was judged."""
        told = (
            {"chain": {name: float(value) for name, value in self._chain.expected.items()}}
            if self._chain.expected
            else {}
        )
        told.update({pool: {"quality": round(value, 6)} for pool, value in right.items()})
        return told


def _read(visit: Visit) -> int:
    """Tokens of a visit's prompt, as far as they were told."""
    if visit.noted:
        return visit.steps[0].usage.prompt_tokens
    return visit.reading.usage.prompt_tokens if visit.reading.usage is not None else 0
