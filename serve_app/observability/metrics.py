"""The typed recorder of a Gateway: fills the metrics that `definitions.py` defines. Nothing else writes them.

Everything is recorded once per request, after its end: a few requests at a time, and all before a reading. Nothing is
observed per token: TPOT and the times between the pieces of a stream are taken when it is over.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial

from prometheus_client import CollectorRegistry, generate_latest

from serve_app.observability import definitions as d
from serve_app.observability.batched import Batched
from serve_app.observability.calibration import CalibrationErrors, CalibrationReading
from serve_app.observability.instruments import AtScrape, Instruments
from serve_app.observability.scraped import (
    RouterFigures,
    WatchedPool,
    WatchedStreams,
    of_calibration,
    of_counts,
    of_pools,
    of_routers,
    of_store,
    of_streams,
)
from serve_app.store.base import RequestRecord, StoreFigures
from serve_app.types import Decision, Price

_NO_ROOM = (429, 503)


class Recorder:
    """Counts requests and their results. One per Gateway process, with its own registry.

    `large`: the price of the pool large, against which savings are reckoned; None: there is no such pool.
    """

    def __init__(self, registry: CollectorRegistry | None = None, large: Price | None = None) -> None:
        self.registry = registry if registry is not None else CollectorRegistry()
        self._large = large
        self._calibration = CalibrationErrors()
        self._over = Batched(self._count)
        self.registry.register(AtScrape(self._counted))  # the first that a reading asks
        made = Instruments(self.registry)
        self._of_requests(made)
        self._of_decisions(made)
        self._of_costs(made)
        self._feedback, self._rating = made.counter(d.FEEDBACK)(), made.histogram(d.RATING)
        self._findings, self._guard_refusals = made.counter(d.FINDINGS), made.counter(d.GUARD_REFUSALS)
        self.registry.register(AtScrape(partial(of_calibration, self._calibration)))

    def _of_requests(self, made: Instruments) -> None:
        self._in_flight = made.gauge(d.IN_FLIGHT)()
        self._requests, self._refusals = made.counter(d.REQUESTS), made.counter(d.REFUSALS)
        self._unauthorized = made.counter(d.UNAUTHORIZED)()
        self._client_retries = made.counter(d.CLIENT_RETRIES)()
        self._latency, self._ttft = made.histogram(d.E2E), made.histogram(d.TTFT)
        self._tpot, self._itl, self._longest = (made.histogram(m) for m in (d.TPOT, d.ITL, d.ITL_LONGEST))
        layers = made.histogram(d.LAYER)
        self._parse, self._decision, self._pool = (layers(x) for x in d.VALUES["layer"])

    def _of_decisions(self, made: Instruments) -> None:
        self._decide, self._decisions = made.histogram(d.DECISION), made.counter(d.DECISIONS)
        self._score, self._confidence = made.histogram(d.SCORE), made.histogram(d.CONFIDENCE)
        self._unscored, self._tasks = made.counter(d.UNSCORED), made.counter(d.TASKS)
        self._fallbacks, self._escalations = made.counter(d.FALLBACKS), made.counter(d.ESCALATIONS)

    def _of_costs(self, made: Instruments) -> None:
        self._tokens, self._cost = made.counter(d.TOKENS), made.counter(d.COST)
        self._wasted, self._wasted_usd = made.counter(d.WASTED), made.counter(d.WASTED_USD)
        self._answered_usd, self._large_usd = made.counter(d.ANSWERED_USD), made.counter(d.LARGE_USD)

    def watch_store(self, figures: StoreFigures) -> None:
        """Report a store's queue and losses at every scrape."""
        self.registry.register(AtScrape(partial(of_store, figures)))

    def watch_routers(self, figures: Callable[[], Sequence[RouterFigures]]) -> None:
        """Report the routers' versions and drift at every scrape."""
        self.registry.register(AtScrape(partial(of_routers, figures)))

    def watch_pools(self, pools: Mapping[str, WatchedPool], may_sleep: Collection[str] = ()) -> None:
        """Report the pools' load at every scrape. `may_sleep`: pools that need no replica while nothing calls them.

        What seldom happens to a pool is counted from 0, so that its first time is seen as a rise.
        """
        for name in pools:
            for counted in (self._fallbacks, self._escalations, self._wasted, self._wasted_usd):
                counted(name)
        self.registry.register(AtScrape(partial(of_pools, pools, may_sleep)))

    def watch_calls(self, repairs: Mapping[str, Mapping[str, int]], retries: Mapping[str, Mapping[str, int]]) -> None:
        """Report at every scrape what upstreams' answers cost: by pool, counts of repairs and retries by kind."""
        self.registry.register(AtScrape(partial(of_counts, d.REPAIRS, repairs)))
        self.registry.register(AtScrape(partial(of_counts, d.RETRIES, retries)))

    def watch_streams(self, streams: WatchedStreams) -> None:
        """Report the streams at every scrape."""
        self.registry.register(AtScrape(partial(of_streams, streams)))

    def started(self) -> None:
        """A request arrived."""
        self._in_flight.inc()

    def ended(self, record: RequestRecord) -> None:
        """A request is over; one that was counted as `started` unless it is route_only."""
        self._over.add(record)

    def _counted(self) -> tuple[()]:
        self._over.drain()
        return ()

    def _count(self, record: RequestRecord) -> None:
        if record.status != "route_only":
            self._in_flight.dec()
        if record.retry:
            self._client_retries.inc()
        decision = record.decision
        strategy, pool = (decision.strategy, decision.pool) if decision else ("", "")
        self._requests(record.endpoint, strategy, pool, str(record.http_status), record.status).inc()
        if record.status == "failed" and (record.http_status in _NO_ROOM or 400 <= record.http_status < 500):
            self._refused(record.error_code)
        if record.parse_ms is not None:
            self._parse.observe(record.parse_ms / 1e3)
        self._spent(record)  # also of a caller who left before there was a decision
        if decision is None:
            return
        self._decided(record, decision)
        if record.status == "completed":
            self._latency(record.endpoint, strategy, pool).observe(record.latency_ms / 1e3)
            if record.endpoint != "embeddings":  # no chat model could have answered instead
                self._saved(record, strategy)
        if record.ttft_ms is not None:
            self._ttft(record.endpoint, strategy, pool).observe(record.ttft_ms / 1e3)
            if record.stream and record.status == "completed":
                self._streamed(record, pool, record.ttft_ms)

    def unauthorized(self, code: str | None = None) -> None:
        """A request was refused for its key."""
        self._unauthorized.inc()
        self._refused(code)

    def found(self, findings: Mapping[str, int]) -> None:
        """Guards found something: numbers by `guard.category`."""
        for name, number in findings.items():
            guard, _, category = name.partition(".")
            self._findings(guard, category).inc(number)

    def refused(self, where: str) -> None:
        """Guards refused a request."""
        self._guard_refusals(where).inc()

    def feedback(self, record: Mapping[str, object] | None = None, score: float | None = None) -> None:
        """Feedback on a stored decision was stored, with a score or without."""
        self._feedback.inc()
        if record is not None and score is not None:
            self._rating(str(record.get("strategy")), str(record.get("pool"))).observe(score)
            self._calibration.add(record, score)

    def calibration(self) -> list[CalibrationReading]:
        """How far expected qualities are from the scores that callers gave, by strategy, router and pool."""
        return list(self._calibration.readings())

    def text(self) -> bytes:
        """Everything in Prometheus' text format."""
        return generate_latest(self.registry)

    def _refused(self, code: str | None) -> None:
        self._refusals(code if code in d.REFUSAL_CODES else "other").inc()

    def _decided(self, record: RequestRecord, decision: Decision) -> None:
        router, strategy, pool = decision.router or "", decision.strategy, decision.pool
        self._decide(router).observe(decision.decision_ms / 1e3)
        self._decision.observe(decision.decision_ms / 1e3)
        if router:
            unscored = self._unscored(router)  # counted from 0, so that its first time is seen as a rise
            if decision.score is None:
                unscored.inc()
            else:
                self._score(router).observe(decision.score)
        if record.first_byte_ms is not None:
            self._pool.observe(record.first_byte_ms / 1e3)
        if record.status == "route_only":  # a question about a decision, not traffic
            return
        self._decisions(router, strategy, pool, decision.cause).inc()
        if decision.task is not None:
            self._tasks(decision.task, pool).inc()
        for checked, probability in decision.confidences.items():
            self._confidence(strategy, checked).observe(probability)

    def _streamed(self, record: RequestRecord, pool: str, ttft_ms: float) -> None:
        """Times within a stream that was completed."""
        written, pieces = record.usage.completion_tokens, record.pieces
        if written > 1:
            self._tpot(pool).observe((record.latency_ms - ttft_ms) / 1e3 / (written - 1))
        if pieces > 1:
            self._itl(pool).observe(record.pieces_ms / 1e3 / (pieces - 1))
            self._longest(pool).observe(record.longest_gap_ms / 1e3)

    def _saved(self, record: RequestRecord, strategy: str) -> None:
        """What a completed request cost, and what its answer would have cost at the pool large."""
        if self._large is None:
            return
        self._answered_usd(strategy).inc(record.cost_usd)
        self._large_usd(strategy).inc(self._large.cost_usd(record.answer_usage))

    def _spent(self, record: RequestRecord) -> None:
        steps = record.steps
        if len(steps) > 1 and steps[0].pool != steps[-1].pool and steps[0].failed:
            self._fallbacks(steps[0].pool).inc()
        for pool in record.escalated_from:
            self._escalations(pool).inc()
        for step in steps:
            self._tokens(step.pool, "in").inc(step.usage.prompt_tokens)
            self._tokens(step.pool, "out").inc(step.usage.completion_tokens)
            self._cost(step.pool).inc(step.cost_usd)
            if step.wasted:
                self._wasted(step.pool).inc(step.usage.total_tokens)
                self._wasted_usd(step.pool).inc(step.cost_usd)


class SilentRecorder(Recorder):
    """`log.metrics: false`: nothing is counted, and `text` has what is read at a scrape."""

    def started(self) -> None:
        """Nothing."""

    def ended(self, record: RequestRecord) -> None:
        """Nothing."""

    def unauthorized(self, code: str | None = None) -> None:
        """Nothing."""

    def found(self, findings: Mapping[str, int]) -> None:
        """Nothing."""

    def refused(self, where: str) -> None:
        """Nothing."""

    def feedback(self, record: Mapping[str, object] | None = None, score: float | None = None) -> None:
        """Nothing."""
