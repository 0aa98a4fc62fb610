"""Notices that the LLM's labels are no longer what the levels have learned: Page's test on how much labels surprise.

E. S. Page, "Continuous inspection schemes" (Biometrika 1954); as a change detector of streams: Gama, Medas, Castillo,
Rodrigues (SBIA 2004). Every query that reached the LLM counts, audited or deferred: given the probabilities its label
should surprise by nothing on average, for whatever reason it was requested. So a shift is seen within tens of labels,
where the agreement of rare audits would need hundreds of queries.

An alarm alone discards nothing: requested labels come in bursts that are odd by chance or by the choice of queries. It
triggers a second look, some tens of queries that all go to the LLM; only if their labels surprise as well, the labels
have drifted.
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
    """One-sided: alarms when surprises rise. `slack`: tolerated rise per label; `alarm`: sum that alarms.

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
        """Forget everything: what follows is another stream, whose mean is unknown."""
        self.total = self.least = self.mean = 0.0
        self.count = 0

    @property
    def level(self) -> float:
        """How near the alarm is, in [0, 1]."""
        return min(1.0, (self.total - self.least) / self.alarm)


@dataclass(slots=True)
class SecondLook:
    """The second look: `needed` labels of unselected queries, against the mean surprise from before, `usual`.

    An underconfident level has a mean below zero on the queries it defers and another on the rest, so the rise above
    zero or above `usual` counts, whichever is higher.
    """

    needed: int
    usual: float
    since: int
    seen: int = 0
    total: float = 0.0

    def add(self, value: float) -> bool | None:
        """Whether the labels have drifted; None while more are needed."""
        self.seen += 1
        self.total += value
        if self.seen < self.needed:
            return None
        return self.total / self.seen > max(0.0, self.usual) + _CERTAIN / math.sqrt(self.seen)


class DriftDetector:
    """Page's test, and the second look after its alarm. `looks`: begun; `changes`: those that confirmed a drift."""

    def __init__(self, slack: float, alarm: float) -> None:
        self._test = PageHinkley(slack, alarm)
        self._look: SecondLook | None = None
        self.looks = self.changes = self.since = 0

    @property
    def looking(self) -> bool:
        """Whether the LLM has to answer all, for the second look."""
        return self._look is not None

    @property
    def needed(self) -> int:
        """Labels that the current look still needs."""
        return 0 if self._look is None else self._look.needed - self._look.seen

    @property
    def level(self) -> float:
        """How near an alarm is, in [0, 1]."""
        return self._test.level

    def observe(self, value: float, age: int, needed: int) -> None:
        """The surprise of the `age`-th label, from a deferral or an audit: an alarm looks at `needed` more."""
        if self._look is not None:  # sent before the look began
            return
        usual = self._test.mean
        if self._test.add(value, age) and needed > 0:
            self.looks += 1
            self._look = SecondLook(needed, usual, self._test.since)

    def looked(self, value: float) -> bool:
        """The surprise of a label of the look; whether it confirms that the labels have drifted.

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
        if look is not None:
            look["wanted"] = look.pop("needed")
        return {"test": asdict(self._test), "look": look, "counts": [self.looks, self.changes, self.since]}

    def restore(self, values: Mapping[str, Any]) -> None:
        """The inverse of `state`. Raises KeyError or TypeError for a damaged one."""
        self._test, look = PageHinkley(**values["test"]), values["look"]
        if look is not None:
            look = SecondLook(needed=look["wanted"], **{k: v for k, v in look.items() if k != "wanted"})
        self._look = look
        self.looks, self.changes, self.since = (int(n) for n in values["counts"])
