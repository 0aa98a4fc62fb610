"""Notices that the LLM's labels are no longer what the levels have learned: Page's test on how much labels surprise.

E. S. Page, "Continuous inspection schemes" (Biometrika 1954); as a change detector of streams: Gama, Medas, Castillo,
Rodrigues (SBIA 2004). Every query that reached the LLM counts, audited or deferred: given the probabilities its label
should surprise by nothing on average, whatever made it be asked. So a shift is seen within tens of labels, where the
agreement of rare audits would need hundreds of queries.

An alarm alone costs nothing that was learned: asked labels come in bursts that are odd by chance or by what is asked.
It calls for a second look, some tens of queries that all go to the LLM, whatever the levels say; only if these labels
surprise as well the labels have drifted.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_MOST = 3.0
"""Bound of a surprise: one odd label is no drift."""
_RATE = 0.003
"""Of the running mean that surprises are taken against: no level is quite calibrated."""
_SETTLING = 30
"""Labels before the mean is one."""
_CERTAIN = 2.0
"""Standard errors by which a second look must surprise: a surprise has about unit variance."""


def surprise(probabilities: NDArray[np.float64], label: int) -> float:
    """How much less likely the label was than the level expected of its own probabilities, in standard deviations.

    Under the level's own probabilities p the likelihood p[label] has mean sum p^2 and variance sum p^3 - (sum p^2)^2.
    """
    expected = float((probabilities**2).sum())
    spread = float(np.sqrt(max((probabilities**3).sum() - expected**2, 1e-6)))
    return float(np.clip((expected - probabilities[label]) / spread, -_MOST, _MOST))


@dataclass(slots=True)
class PageHinkley:
    """One-sided: alarms when surprises rise. `slack`: rise per label that is let pass; `alarm`: sum that alarms.

    `since` is the age of the label after which the sum began to rise: labels before it are from before the change.
    """

    slack: float
    alarm: float
    total: float = 0.0
    least: float = 0.0
    since: int = 0
    mean: float = 0.0
    count: int = 0

    def add(self, value: float, age: int) -> bool:
        """Whether this value, of the `age`-th label, raises the alarm; if so the sum begins anew, the mean stays."""
        rise = value - self.mean
        self.count += 1
        self.mean += rise * max(_RATE, 1 / self.count)
        self.total = self.total + rise - self.slack if self.count > _SETTLING else 0.0
        if self.total <= self.least or self.count <= _SETTLING:
            self.least, self.since = self.total, age
        if self.total - self.least <= self.alarm:
            return False
        self.total = self.least = 0.0
        return True

    def begin_again(self) -> None:
        """What comes is another stream: its mean is unknown."""
        self.total = self.least = self.mean = 0.0
        self.count = 0

    @property
    def level(self) -> float:
        """How near the alarm is, in [0, 1]."""
        return min(1.0, (self.total - self.least) / self.alarm)


@dataclass(slots=True)
class SecondLook:
    """The second look: `wanted` labels of queries that nobody chose, against the mean surprise from before, `usual`.

    A level that doubts itself too much has a mean below zero where it was asked and another where it was not, so what
    counts is the rise above zero or above `usual`, whichever is higher.
    """

    wanted: int
    usual: float
    since: int
    seen: int = 0
    total: float = 0.0

    def add(self, value: float) -> bool | None:
        """Whether the labels have drifted; None while more are wanted."""
        self.seen += 1
        self.total += value
        if self.seen < self.wanted:
            return None
        return self.total / self.seen > max(0.0, self.usual) + _CERTAIN / math.sqrt(self.seen)


class DriftDetector:
    """Page's test, and the look that its alarm calls for. `looks`: begun; `changes`: that found the labels drifted."""

    def __init__(self, slack: float, alarm: float) -> None:
        self._test = PageHinkley(slack, alarm)
        self._look: SecondLook | None = None
        self.looks = self.changes = self.since = 0

    @property
    def looking(self) -> bool:
        """Whether the LLM has to answer all, for the second look."""
        return self._look is not None

    @property
    def wanted(self) -> int:
        """Labels that a look still waits for."""
        return 0 if self._look is None else self._look.wanted - self._look.seen

    @property
    def level(self) -> float:
        """How near an alarm is, in [0, 1]."""
        return self._test.level

    def asked(self, value: float, age: int, wanted: int) -> None:
        """The surprise of the `age`-th label, sent by a level or an audit: an alarm looks at `wanted`."""
        if self._look is not None:  # sent before the look began
            return
        usual = self._test.mean
        if self._test.add(value, age) and wanted > 0:
            self.looks += 1
            self._look = SecondLook(wanted, usual, self._test.since)

    def looked(self, value: float) -> bool:
        """The surprise of a label that the look asked for; whether it shows that the labels have drifted.

        If so `since` is the age of the label after which they did.
        """
        if self._look is None or (drifted := self._look.add(value)) is None:
            return False
        self.since, self._look = self._look.since, None
        if drifted:
            self.changes += 1
            self._test.begin_again()
        return drifted

    def state(self) -> dict[str, Any]:
        """JSON-ready; `restore` is the inverse."""
        look = None if self._look is None else asdict(self._look)
        return {"test": asdict(self._test), "look": look, "counts": [self.looks, self.changes, self.since]}

    def restore(self, values: Mapping[str, Any]) -> None:
        """Take up what `state` gave. Raises KeyError or TypeError for one that is not whole."""
        self._test = PageHinkley(**values["test"])
        self._look = None if values["look"] is None else SecondLook(**values["look"])
        self.looks, self.changes, self.since = (int(n) for n in values["counts"])
