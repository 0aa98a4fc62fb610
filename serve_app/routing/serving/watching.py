"""Watches the traffic of one router: scores, share, inputs and outcomes against what it was calibrated on.

On the hot path a query is only queued; a thread updates the statistics.
"""

import logging
from collections import deque
from collections.abc import Callable, Mapping
from time import perf_counter
from typing import Any, Final

from numpy.typing import NDArray

from serve_app.decision.threshold import Calibration
from serve_app.routing.drift import (
    MIN_FEEDBACK,
    MIN_QUERIES,
    Alarm,
    DriftReading,
    InputDrift,
    Inputs,
    OutcomeDrift,
    ScoreDrift,
    ShareDrift,
    VectorDrift,
)
from serve_app.types import Query

_QUEUED: Final = 500
"""Queries queued between two digests; of more, the newest count."""
_STEP: Final = 50
"""New queries between two looks, so that looks are not of the same data."""
_FEEDBACK_STEP: Final = 10
_BUDGET_S: Final = 0.02
"""Longest digest at a time: it holds the interpreter lock, which the event loop needs."""

logger = logging.getLogger("jethro.routing")

Vector = Callable[[str], NDArray[Any] | None]
"""The sentence vector of a text if it is cached; never computes."""


class RouterWatch:
    """The signals of one router version at one threshold. `observe` is for the event loop, `digest` for a thread."""

    def __init__(
        self,
        version: str,
        calibration: Calibration,
        threshold: float,
        inputs: Inputs | None = None,
        vector: Vector | None = None,
    ) -> None:
        self._version = version
        self._scores = ScoreDrift(calibration.scores)
        self._calibrated = calibration.scores
        self._share = ShareDrift(calibration.scores, threshold)
        self._inputs = InputDrift(inputs) if inputs is not None else None
        with_vectors = inputs is not None and vector is not None and inputs.vector_variance > 0
        self._vectors = VectorDrift(inputs) if inputs is not None and with_vectors else None
        self._vector = vector
        self._outcomes: dict[str, OutcomeDrift] = {}
        self._queued: deque[tuple[Query, float]] = deque(maxlen=_QUEUED)
        self._feedback: deque[tuple[str, float, float]] = deque(maxlen=_QUEUED)
        self._new = self._new_feedback = 0
        self.alarms: dict[str, Alarm] = {}

    def set_threshold(self, threshold: float) -> None:
        """Watch the share of strong calls at this threshold. The current one changes nothing."""
        if threshold != self._share.threshold:
            self._share = ShareDrift(self._calibrated, threshold)
            self.alarms.pop("share", None)

    def observe(self, query: Query, score: float) -> None:
        """A query was routed by this score."""
        self._queued.append((query, score))

    def feedback(self, pool: str, expected: float, observed: float) -> None:
        """Feedback on a pool's answer, with the quality expected at its score; both in [0, 1]."""
        self._feedback.append((pool, expected, observed))

    def digest(self) -> None:
        """Update the statistics, and log alarms that begin or end."""
        until = perf_counter() + _BUDGET_S
        while self._queued and perf_counter() < until:
            query, score = self._queued.popleft()
            self._scores.add(score)
            self._share.add(score)
            if self._inputs is not None:
                self._inputs.add(query)
            if self._vectors is not None and self._vector is not None:
                vector = self._vector(query.text)
                if vector is not None:
                    self._vectors.add(vector)
            self._new += 1
        while self._feedback:
            pool, expected, observed = self._feedback.popleft()
            self._outcomes.setdefault(pool, OutcomeDrift()).add(expected, observed)
            self._new_feedback += 1
        self._look()

    def state(self) -> Mapping[str, Mapping[str, Any]]:
        """By signal: whether it is drift, its statistic, limit and count; JSON-ready."""
        found: dict[str, dict[str, Any]] = {}
        for name, alarm in list(self.alarms.items()):
            assert alarm.last is not None
            last = alarm.last
            found[name] = {"drift": alarm.raised, "statistic": last.statistic, "limit": last.limit, "queries": last.n}
        if self._inputs is not None and "inputs" in found:
            found["inputs"]["feature"] = self._inputs.furthest
        return found

    def shares(self) -> tuple[float | None, float]:
        """Share of strong calls among the last scores, None without any, and that of the calibration data."""
        return self._share.live, self._share.expected

    def _look(self) -> None:
        if self._new >= _STEP:
            self._new = 0
            self._take("scores", self._scores.reading(), MIN_QUERIES)
            self._take("share", self._share.reading(), MIN_QUERIES)
            if self._inputs is not None:
                self._take("inputs", self._inputs.reading(), MIN_QUERIES)
            if self._vectors is not None:
                self._take("vectors", self._vectors.reading(), MIN_QUERIES)
        if self._new_feedback >= _FEEDBACK_STEP:
            self._new_feedback = 0
            for pool, outcomes in self._outcomes.items():
                self._take(f"quality_{pool}", outcomes.reading(), MIN_FEEDBACK)

    def _take(self, name: str, reading: DriftReading, least: int) -> None:
        if reading.n < least:
            return
        alarm = self.alarms.setdefault(name, Alarm(name))
        if alarm.look(reading):
            logger.warning(
                "router %s: %s of live traffic %s (%.3g, limit %.3g, %d queries)%s",
                self._version,
                name,
                "drifted away from the calibration data" if alarm.raised else "is back at the calibration data",
                reading.statistic,
                reading.limit,
                reading.n,
                "; refresh the router from the decision log" if alarm.raised else "",
            )
