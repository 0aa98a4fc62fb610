"""All metrics of the Gateway: names, units and labels, and the typed recorder that fills them.

Label values are bounded: endpoints, strategies, pools and routers come from the config, status codes from HTTP.
Nothing is observed per token; TPOT is taken once, at the end of a stream.

Metrics of streams, routers, and the store are read at every scrape. Every Gateway reports the Learner's figures of the
streams: take one of them, not the sum. The label `stream` is the stream's uid, not its name, which is its tenant's; it
is bounded by `streams.most`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Final, Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from serve_app.store.base import RequestRecord, StoreFigures

_BY_STREAM: Final = ("stream",)
_COUNTS: Final = {
    "queries": "Queries acted on",
    "llm_calls": "Queries that went to the LLM",
    "unparsed": "LLM answers that parsed to no label",
    "lost": "Events that a Gateway had no room for",
    "failed": "Queries that went to the LLM and got no answer",
    "refused": "Events that could not be learned from",
    "corrupt": "Checkpoints and journal lines that could not be read",
}


class StreamFigures(Protocol):
    """What the Learner reported of one stream."""

    @property
    def uid(self) -> str:
        """The stream, by the id that it got when it was created."""

    @property
    def version(self) -> int:
        """The policy's version."""

    @property
    def figures(self) -> Mapping[str, Any]:
        """Counts, `share` by level, and the learner's own figures."""


class WatchedStreams(Protocol):
    """The streams of a Gateway."""

    @property
    def waiting(self) -> int:
        """Events that the Learner does not have yet."""

    @property
    def away(self) -> bool:
        """Whether the Learner did not answer the last request."""

    def figures(self) -> Sequence[StreamFigures]:
        """Each stream as last known."""


Families = list[GaugeMetricFamily | CounterMetricFamily]


class _Scraped(Collector):
    """Calls a function at every scrape."""

    def __init__(self, read: Callable[[], Families]) -> None:
        self._read = read

    def collect(self) -> Families:
        return self._read()


def _of_streams(streams: WatchedStreams) -> Families:
    """Counts, shares, agreement with the LLM in audits, alarms of drift, and the way to the Learner."""
    counts = {k: CounterMetricFamily(f"jethro_stream_{k}", text, labels=_BY_STREAM) for k, text in _COUNTS.items()}
    drift = CounterMetricFamily("jethro_stream_drift_alarms", "Changes of the LLM's labels", labels=_BY_STREAM)
    share = GaugeMetricFamily("jethro_stream_share", "Share of queries by level", labels=("stream", "level"))
    agreed = "Audited answers that were the LLM's, of late"
    agreement = GaugeMetricFamily("jethro_stream_agreement", agreed, labels=_BY_STREAM)
    version = GaugeMetricFamily("jethro_stream_version", "Version of the policy in use", labels=_BY_STREAM)
    for stream in streams.figures():
        reported, learner = stream.figures, stream.figures["learner"]
        for key, counter in counts.items():
            counter.add_metric((stream.uid,), reported[key])
        for level, part in reported["share"].items():
            share.add_metric((stream.uid, level), part)
        drift.add_metric((stream.uid,), learner.get("drift_alarms", 0))
        if learner.get("agreement") is not None:
            agreement.add_metric((stream.uid,), learner["agreement"])
        version.add_metric((stream.uid,), stream.version)
    waiting = GaugeMetricFamily("jethro_learner_waiting", "Events not yet learned", value=streams.waiting)
    away = GaugeMetricFamily("jethro_learner_away", "1: the last request got no answer", value=streams.away)
    return [*counts.values(), drift, share, agreement, version, waiting, away]


_DECIDE_S = (5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 0.1, 1.0)
"""Feature routers decide in well under 1 ms, encoder routers in under 5 ms."""
_LATENCY_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 600.0)
_TPOT_S = (0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0)


@dataclass(frozen=True, slots=True)
class RouterFigures:
    """One router in service; counts since the start of this process.

    `drift`: by signal, `drift` (whether), `statistic`, `limit`, `queries`. `models`: the weak and the strong one whose
    answers it was trained on, None for none. `warning`: what the decisions by its score carry.
    """

    name: str
    kind: str
    version: str
    threshold: float
    placement: str
    default: bool
    swaps: int
    refusals: int
    refused: str | None
    drift: Mapping[str, Mapping[str, Any]]
    models: Mapping[str, str] | None = None
    warning: str | None = None


class Recorder:
    """Counts requests and their results. One per Gateway process, with its own registry."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = r = registry if registry is not None else CollectorRegistry()
        counter, histogram = partial(Counter, registry=r), partial(Histogram, registry=r)
        how, pool, router = ("endpoint", "strategy", "pool"), ("pool",), ("router",)
        self._in_flight = Gauge("jethro_requests_in_flight", "Requests being answered", registry=r)
        # `labels()` checks and locks at every call; the children are few and are kept.
        self._requests = cache(counter("jethro_requests", "Requests that ended", (*how, "code", "status")).labels)
        self._latency = cache(histogram("jethro_e2e_seconds", "Arrival to last byte", how, buckets=_LATENCY_S).labels)
        self._ttft = cache(histogram("jethro_ttft_seconds", "Arrival to first byte", how, buckets=_LATENCY_S).labels)
        tpot = "Time per output token after the first"
        self._tpot = cache(histogram("jethro_tpot_seconds", tpot, pool, buckets=_TPOT_S).labels)
        layer = "Time spent in one layer before the first byte: parse, decide, pool"
        layers = histogram("jethro_layer_seconds", layer, ("layer",), buckets=(*_DECIDE_S, 10.0, 60.0, 600.0))
        self._parse, self._decision, self._pool = (layers.labels(x) for x in ("parse", "decide", "pool"))
        decide = "Time of one decision"
        self._decide = cache(histogram("jethro_decision_seconds", decide, router, buckets=_DECIDE_S).labels)
        self._decisions = cache(counter("jethro_decisions", "Decisions by the pool chosen", (*router, *pool)).labels)
        unscored = "Decisions without a score: the strong pool was called"
        self._unscored = counter("jethro_unscored", unscored, router)
        self._fallbacks = counter("jethro_fallbacks", "Answers by another pool than the first", pool)
        self._escalations = counter("jethro_escalations", "Answers rejected for low confidence and replaced", pool)
        self._tokens = cache(counter("jethro_tokens", "Tokens read and written", (*pool, "direction")).labels)
        self._wasted = counter("jethro_wasted_tokens", "Tokens of calls that are in no answer", pool)
        self._wasted_usd = counter("jethro_wasted_cost_usd", "US dollars of calls that are in no answer", pool)
        self._cost = cache(counter("jethro_cost_usd", "Spent, in US dollars", pool).labels)
        self._unauthorized = counter("jethro_unauthorized", "Requests with no key or a wrong one")
        self._feedback = counter("jethro_feedback", "Feedback stored")
        found = "Findings of guards, and of personal data by placement"
        self._findings = counter("jethro_guard_findings", found, ("guard", "category"))
        self._refused = counter("jethro_guard_refusals", "Requests that guards refused", ("where",))

    def watch_store(self, figures: StoreFigures) -> None:
        """Report a store's queue and losses at every scrape."""
        self.registry.register(_Scraped(partial(_of_store, figures)))

    def watch_routers(self, figures: Callable[[], Sequence[RouterFigures]]) -> None:
        """Report the routers' versions and drift at every scrape."""
        self.registry.register(_Scraped(partial(_of_routers, figures)))

    def watch_repairs(self, repairs: Mapping[str, Mapping[str, int]]) -> None:
        """Report at every scrape what had to be repaired in upstreams' answers: by pool, counts by kind."""
        self.registry.register(_Scraped(partial(_of_repairs, repairs)))

    def watch_streams(self, streams: WatchedStreams) -> None:
        """Report the streams at every scrape."""
        self.registry.register(_Scraped(partial(_of_streams, streams)))

    def started(self) -> None:
        """A request arrived."""
        self._in_flight.inc()

    def ended(self, record: RequestRecord) -> None:
        """A request is over; one that was counted as `started` unless it is route_only."""
        if record.status != "route_only":
            self._in_flight.dec()
        decision = record.decision
        strategy, pool = (decision.strategy, decision.pool) if decision else ("", "")
        self._requests(record.endpoint, strategy, pool, str(record.http_status), record.status).inc()
        if record.parse_ms is not None:
            self._parse.observe(record.parse_ms / 1e3)
        self._spent(record)  # also of a caller who left before there was a decision
        if decision is None:
            return
        self._decided(record)
        if record.status == "completed":
            self._latency(record.endpoint, strategy, pool).observe(record.latency_ms / 1e3)
        if record.ttft_ms is not None:
            self._ttft(record.endpoint, strategy, pool).observe(record.ttft_ms / 1e3)
            if record.stream and record.status == "completed" and (written := record.usage.completion_tokens) > 1:
                self._tpot(pool).observe((record.latency_ms - record.ttft_ms) / 1e3 / (written - 1))

    def unauthorized(self) -> None:
        """A request was refused for its key."""
        self._unauthorized.inc()

    def found(self, findings: Mapping[str, int]) -> None:
        """Guards found something: numbers by `guard.category`."""
        for name, number in findings.items():
            guard, _, category = name.partition(".")
            self._findings.labels(guard, category).inc(number)

    def refused(self, where: str) -> None:
        """Guards refused a request."""
        self._refused.labels(where).inc()

    def feedback(self) -> None:
        """Feedback was stored."""
        self._feedback.inc()

    def text(self) -> bytes:
        """Everything in Prometheus' text format."""
        return generate_latest(self.registry)

    def _decided(self, record: RequestRecord) -> None:
        decision = record.decision
        assert decision is not None
        router = decision.router or ""
        self._decide(router).observe(decision.decision_ms / 1e3)
        self._decision.observe(decision.decision_ms / 1e3)
        if decision.score is None and router:
            self._unscored.labels(router).inc()
        if record.status != "route_only":  # a question about a decision, not traffic
            self._decisions(router, decision.pool).inc()
        if record.first_byte_ms is not None:
            self._pool.observe(record.first_byte_ms / 1e3)

    def _spent(self, record: RequestRecord) -> None:
        steps = record.steps
        if len(steps) > 1 and steps[0].pool != steps[-1].pool and steps[0].failed:
            self._fallbacks.labels(steps[0].pool).inc()
        decision = record.decision
        compares = decision is not None and decision.strategy == "ensemble"  # others than the best were not rejected
        if decision is not None and not compares and (len(steps) > 1 or (steps and steps[0].wasted)):
            for pool in {step.pool for step in steps if step.wasted and not step.failed} - {decision.pool}:
                self._escalations.labels(pool).inc()
        for step in steps:
            self._tokens(step.pool, "in").inc(step.usage.prompt_tokens)
            self._tokens(step.pool, "out").inc(step.usage.completion_tokens)
            self._cost(step.pool).inc(step.cost_usd)
            if step.wasted:
                self._wasted.labels(step.pool).inc(step.usage.total_tokens)
                self._wasted_usd.labels(step.pool).inc(step.cost_usd)


def _of_repairs(repairs: Mapping[str, Mapping[str, int]]) -> Families:
    """One counter."""
    text = "Odd parts of upstreams' answers that were repaired or left out, by what they were: json, usage"
    counter = CounterMetricFamily("jethro_upstream_repairs", text, labels=("pool", "what"))
    for pool, counts in repairs.items():
        for what, number in list(counts.items()):
            counter.add_metric((pool, what), number)
    return [counter]


def _of_store(f: StoreFigures) -> Families:
    return [
        GaugeMetricFamily("jethro_store_queued", "Decisions waiting for the writer", value=f.queued),
        CounterMetricFamily("jethro_store_dropped", "Decisions lost: the queue was full", value=f.dropped),
        CounterMetricFamily("jethro_store_failed", "Decisions lost: the write failed", value=f.failed),
        CounterMetricFamily("jethro_store_restarts", "Times the lost or damaged file was replaced", value=f.restarts),
        GaugeMetricFamily("jethro_store_away", "1: no usable file, decisions wait in memory", value=f.away),
    ]


def _of_routers(figures: Callable[[], Sequence[RouterFigures]]) -> Families:
    """Versions, swaps and refusals; of each drift signal whether it is raised, its statistic and its limit."""
    by_router, by_signal = ("router",), ("router", "signal")
    serving = GaugeMetricFamily("jethro_router", "1 for the version in service", labels=("router", "version"))
    threshold = GaugeMetricFamily("jethro_router_threshold", "Strong if the score is at least", labels=by_router)
    swaps = CounterMetricFamily("jethro_router_swaps", "Versions taken into service", labels=by_router)
    refusals = CounterMetricFamily("jethro_router_refusals", "Versions that could not be loaded", labels=by_router)
    raised = GaugeMetricFamily("jethro_router_drift", "1 while live traffic has drifted", labels=by_signal)
    moved = GaugeMetricFamily("jethro_router_drift_statistic", "Distance from calibration data", labels=by_signal)
    limit = GaugeMetricFamily("jethro_router_drift_limit", "Distance that counts as drift", labels=by_signal)
    for f in figures():
        serving.add_metric((f.name, f.version), 1)
        threshold.add_metric((f.name,), f.threshold)
        swaps.add_metric((f.name,), f.swaps)
        refusals.add_metric((f.name,), f.refusals)
        for signal, reported in f.drift.items():
            raised.add_metric((f.name, signal), float(reported["drift"]))
            moved.add_metric((f.name, signal), float(reported["statistic"]))
            limit.add_metric((f.name, signal), float(reported["limit"]))
    return [serving, threshold, swaps, refusals, raised, moved, limit]
