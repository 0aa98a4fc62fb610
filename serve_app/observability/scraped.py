"""What is read at every scrape: streams, routers, pools, the store, calibration. Their owners keep the figures.

Every Gateway reports the Learner's figures of the streams: take one of them, not the sum. The label `stream` is the
stream's uid, not its name, which is its tenant's; it is bounded by `streams.most`.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from serve_app.observability import definitions as d
from serve_app.observability.calibration import CalibrationErrors
from serve_app.observability.instruments import Family, family
from serve_app.pools.base import PoolLoad
from serve_app.store.base import StoreFigures

Families = list[Family]


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


class WatchedPool(Protocol):
    """A pool, as far as the metrics read it."""

    def load(self) -> PoolLoad:
        """Never waits."""


@dataclass(frozen=True, slots=True)
class RouterFigures:
    """One router in service; counts since the start of this process.

    `drift`: by signal, `drift` (whether), `statistic`, `limit`, `queries`. `share` of strong calls among the last
    scores, and `expected_share` of the calibration data; None without calibration or queries. `models`: the weak and
    the strong one whose answers it was trained on, None for none. `warning`: what the decisions by its score carry.
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
    share: float | None = None
    expected_share: float | None = None


def of_store(f: StoreFigures) -> Families:
    """Its queue and losses."""
    return [
        family(d.STORE_QUEUED, f.queued),
        family(d.STORE_DROPPED, f.dropped),
        family(d.STORE_FAILED, f.failed),
        family(d.STORE_RESTARTS, f.restarts),
        family(d.STORE_AWAY, f.away),
    ]


def of_pools(pools: Mapping[str, WatchedPool], may_sleep: Collection[str] = ()) -> Families:
    """Replicas, open and waiting calls, as this Gateway knows them. `may_sleep`: pools that are up without replicas."""
    up, replicas, open_, queue, places = (
        family(m) for m in (d.POOL_UP, d.POOL_REPLICAS, d.POOL_IN_FLIGHT, d.POOL_QUEUE, d.POOL_PLACES)
    )
    for name, pool in pools.items():
        load = pool.load()
        up_now = load.answers if load.replicas else name in may_sleep
        values = (up_now, load.replicas, load.in_flight, load.waiting, load.places)
        for one, value in zip((up, replicas, open_, queue, places), values, strict=True):
            one.add_metric((name,), float(value))
    return [up, replicas, open_, queue, places]


def of_counts(definition: d.MetricDefinition, counts: Mapping[str, Mapping[str, int]]) -> Families:
    """One counter, of numbers by pool and kind; kinds that never were are 0."""
    counter, kinds = family(definition), d.VALUES["what"] if definition is d.REPAIRS else d.RETRY_REASONS
    for pool, by_kind in counts.items():
        for kind, number in (dict.fromkeys(kinds, 0) | dict(by_kind)).items():
            counter.add_metric((pool, kind), number)
    return [counter]


def of_calibration(errors: CalibrationErrors) -> Families:
    """The error, and what it is computed from."""
    error, ratings = family(d.CALIBRATION), family(d.CALIBRATION_SIZE)
    for one in errors.readings():
        labels = (one.strategy, one.router, one.pool)
        error.add_metric(labels, one.error)
        ratings.add_metric(labels, one.ratings)
    return [error, ratings]


def of_routers(figures: Callable[[], Iterable[RouterFigures]]) -> Families:
    """Versions, share, swaps and refusals; of each drift signal whether it is raised, its statistic and its limit."""
    serving, threshold = family(d.ROUTER), family(d.ROUTER_THRESHOLD)
    share, expected = family(d.ROUTER_SHARE), family(d.ROUTER_SHARE_EXPECTED)
    swaps, refusals = family(d.ROUTER_SWAPS), family(d.ROUTER_REFUSALS)
    raised, moved, limit = family(d.DRIFT), family(d.DRIFT_STATISTIC), family(d.DRIFT_LIMIT)
    for f in figures():
        serving.add_metric((f.name, f.version), 1)
        threshold.add_metric((f.name,), f.threshold)
        swaps.add_metric((f.name,), f.swaps)
        refusals.add_metric((f.name,), f.refusals)
        for one, value in ((share, f.share), (expected, f.expected_share)):
            if value is not None:
                one.add_metric((f.name,), value)
        for signal, reported in f.drift.items():
            raised.add_metric((f.name, signal), float(reported["drift"]))
            moved.add_metric((f.name, signal), float(reported["statistic"]))
            limit.add_metric((f.name, signal), float(reported["limit"]))
    return [serving, threshold, share, expected, swaps, refusals, raised, moved, limit]


def of_streams(streams: WatchedStreams) -> Families:
    """Counts, shares, agreement with the LLM, the learner's state, and the way to the Learner."""
    counts = {key: family(definition) for key, definition in d.STREAM_COUNTS.items()}
    drift, labels, version = family(d.STREAM_DRIFT), family(d.STREAM_LABELS), family(d.STREAM_VERSION)
    share, agreement, by_level = (family(m) for m in (d.STREAM_SHARE, d.STREAM_AGREEMENT, d.STREAM_LEVEL_AGREEMENT))
    warming, price = family(d.STREAM_WARMING), family(d.STREAM_PRICE)
    for stream in streams.figures():
        uid, reported, learner = (stream.uid,), stream.figures, stream.figures["learner"]
        for key, counter in counts.items():
            counter.add_metric(uid, reported[key])
        for level, part in reported["share"].items():
            share.add_metric((*uid, level), part)
        for level, part in learner.get("level_agreement", {}).items():
            if part is not None:
                by_level.add_metric((*uid, level), part)
        drift.add_metric(uid, learner.get("drift_alarms", 0))
        labels.add_metric(uid, learner.get("labels_learned", 0))
        version.add_metric(uid, stream.version)
        for gauge, name in ((agreement, "agreement"), (warming, "warming_up"), (price, "price")):
            if learner.get(name) is not None:
                gauge.add_metric(uid, float(learner[name]))
    waiting, away = family(d.LEARNER_WAITING, streams.waiting), family(d.LEARNER_AWAY, streams.away)
    return [*counts.values(), drift, labels, version, share, agreement, by_level, warming, price, waiting, away]
