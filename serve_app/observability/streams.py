"""Metrics of the streams, read when Prometheus asks.

Every Gateway tells what the Learner told it: take one of them, not the sum. The label `stream` is bounded by
`streams.most`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

_BY_STREAM: Final = ("stream",)
_COUNTS: Final = {
    "queries": "Queries acted on",
    "llm_calls": "Queries that went to the LLM",
    "unparsed": "LLM answers that parsed to no label",
    "lost": "Events that a Gateway had no room for",
    "failed": "Queries that the LLM was asked and did not answer",
    "refused": "Events that could not be learned from",
    "corrupt": "Checkpoints and journal lines that could not be read",
}


class StreamFigures(Protocol):
    """What the Learner told of one stream."""

    @property
    def name(self) -> str:
        """The stream."""

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
        """Whether the Learner did not answer when last asked."""

    def figures(self) -> Sequence[StreamFigures]:
        """Each stream as last known."""


class StreamCollector(Collector):
    """Reads the streams' figures when Prometheus asks."""

    def __init__(self, streams: WatchedStreams) -> None:
        self._streams = streams

    def collect(self) -> list[GaugeMetricFamily | CounterMetricFamily]:
        """Counts, shares, agreement with the LLM in audits, alarms of drift, and the way to the Learner."""
        counts = {
            key: CounterMetricFamily(f"jethro_stream_{key}", text, labels=_BY_STREAM) for key, text in _COUNTS.items()
        }
        drift = CounterMetricFamily("jethro_stream_drift_alarms", "Changes of the LLM's labels", labels=_BY_STREAM)
        share = GaugeMetricFamily("jethro_stream_share", "Share of queries by level", labels=("stream", "level"))
        agreement = GaugeMetricFamily(
            "jethro_stream_agreement", "Audited answers that were the LLM's, of late", labels=_BY_STREAM
        )
        version = GaugeMetricFamily("jethro_stream_version", "The policy that is acted by", labels=_BY_STREAM)
        for stream in self._streams.figures():
            told, learner = stream.figures, stream.figures["learner"]
            for key, counter in counts.items():
                counter.add_metric((stream.name,), told[key])
            for level, part in told["share"].items():
                share.add_metric((stream.name, level), part)
            drift.add_metric((stream.name,), learner.get("drift_alarms", 0))
            if learner.get("agreement") is not None:
                agreement.add_metric((stream.name,), learner["agreement"])
            version.add_metric((stream.name,), stream.version)
        waiting = GaugeMetricFamily("jethro_learner_waiting", "Events not yet learned", value=self._streams.waiting)
        away = GaugeMetricFamily("jethro_learner_away", "1: no answer when last asked", value=self._streams.away)
        return [*counts.values(), drift, share, agreement, version, waiting, away]
