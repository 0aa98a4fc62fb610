"""The contract of every metric, and the base of those that grade one answer at a time against the reference.

Metrics fill the quality of a Dataset's answers; they collect no answers and know no router.
"""

import asyncio
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Protocol

import numpy as np

from serve_app.arrays import Floats
from serve_app.data.dataset import Dataset
from serve_app.errors import DataError

Report = Callable[[str], None]
Range = tuple[float | None, float | None]
"""Lowest and highest quality of a metric; None where it has no bound."""
UNIT: Range = (0.0, 1.0)
_REPORTED_EVERY = 1000
"""Rows between two lines of progress."""


def silent(line: str) -> None:
    """Report nothing."""


class Metric(Protocol):
    """Grades each sampled answer of a Dataset; higher quality is better."""

    @property
    def name(self) -> str:
        """The metric as `get_metric` knows it."""

    @property
    def quality_range(self) -> Range:
        """Bounds of the quality."""

    @property
    def options(self) -> Mapping[str, Any]:
        """What the metric was made with, JSON-ready: kept along with the quality."""

    async def score(self, dataset: Dataset, report: Report = silent) -> Dataset:
        """The dataset with its quality filled; `about` names `metric`, its `metric_options` and `quality_range`.

        A metric that cannot grade an answer reports how many such there were, in `about` and to `report`; it never
        invents a quality. Raises DataError, with the row's id, for a row that lacks what the metric needs.
        """


class ReferenceMetric(ABC):
    """Grades every answer by itself, in [0, 1], against the reference of its row."""

    name: str
    quality_range: Range = UNIT

    set_by: tuple[str, ...] = ()
    """Attributes that `options` reports."""

    @property
    def options(self) -> Mapping[str, Any]:
        """See `Metric.options`."""
        return {name: getattr(self, name) for name in self.set_by}

    def prepare(self, dataset: Dataset, row: int, reference: str) -> Any:
        """What `grade` compares the row's answers with, by default the reference itself.

        Raises ValueError, saying why, if the row cannot be graded.
        """
        return reference

    def prepare_all(self, dataset: Dataset) -> list[Any]:
        """`prepare` of every row. Raises DataError naming the first row that cannot be graded."""
        found = []
        for row, reference in enumerate(references_of(dataset, self.name)):
            try:
                found.append(self.prepare(dataset, row, reference))
            except ValueError as e:
                raise DataError(f"row {dataset.ids[row]!r}: {e}") from e
        return found

    @abstractmethod
    def grade(self, prepared: Any, answer: str) -> float | None:
        """Quality of one answer in [0, 1]; None if nothing could be read from it, which graders count as wrong."""

    async def score(self, dataset: Dataset, report: Report = silent) -> Dataset:
        """The dataset with its quality filled, off the event loop; see `Metric.score`."""
        return await asyncio.to_thread(self._score, dataset, report)

    def _score(self, dataset: Dataset, report: Report) -> Dataset:
        quality = {name: np.zeros(pool.quality.shape) for name, pool in dataset.pools.items()}
        unread: Counter[str] = Counter()
        for row, prepared in enumerate(self.prepare_all(dataset)):
            for name, pool in dataset.pools.items():
                for sample, text in enumerate(pool.texts[row]):
                    graded = self.grade(prepared, text)
                    unread[name] += graded is None
                    quality[name][row, sample] = graded or 0.0
            if (row + 1) % _REPORTED_EVERY == 0:
                report(f"{self.name}: {row + 1:,} of {len(dataset):,} queries scored")
        if unread.total():
            counts = ", ".join(f"{count:,} of {name}" for name, count in unread.items() if count)
            report(f"{self.name}: nothing could be read from {counts}; graded as wrong")
        return with_quality(dataset, quality, self, {"unread": dict(unread)} if unread.total() else {})


def references_of(dataset: Dataset, metric: str) -> tuple[str, ...]:
    """The reference of every row. Raises DataError naming the first row without one."""
    known = dataset.references or (None,) * len(dataset)
    missing = [dataset.ids[row] for row, reference in enumerate(known) if reference is None]
    if missing:
        raise DataError(
            f"row {missing[0]!r} has no reference ({len(missing):,} of {len(dataset):,} have none), but the metric "
            f"{metric!r} compares with it: add a reference to each row, or take a metric that needs none, as judge"
        )
    return tuple(reference for reference in known if reference is not None)


def with_quality(
    dataset: Dataset, quality: Mapping[str, Floats], metric: Metric, facts: Mapping[str, Any] | None = None
) -> Dataset:
    """The dataset with these qualities by pool, each [n, k], and the metric with `facts` about its run in `about`.

    Entries of an earlier metric are removed.
    """
    pools = {name: replace(pool, quality=quality[name]) for name, pool in dataset.pools.items()}
    kept = {key: value for key, value in dataset.about.items() if not key.startswith("metric")}
    about = {
        **kept,
        "metric": metric.name,
        "metric_options": dict(metric.options),
        "metric_told": dict(facts or {}),
        "quality_range": list(metric.quality_range),
    }
    return replace(dataset, pools=pools, about=about)
