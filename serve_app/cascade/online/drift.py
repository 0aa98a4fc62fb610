"""Notices that the LLM's labels are no longer what the levels have learned: Page's test on how much labels surprise.

E. S. Page, "Continuous inspection schemes" (Biometrika 1954); as a change detector of streams: Gama, Medas, Castillo,
Rodrigues (SBIA 2004). Every query that reached the LLM counts, audited or deferred: given the probabilities its label
should surprise by nothing on average, whatever made it be asked. So a shift is seen within tens of labels, where the
agreement of rare audits would need hundreds of queries.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_MOST = 3.0
"""Bound of a surprise: one odd label is no drift."""
_RATE = 0.003
"""Of the running mean that surprises are taken against: no level is quite calibrated."""
_SETTLING = 30
"""Labels before the mean is one."""


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
    alarms: int = 0
    mean: float = 0.0
    count: int = 0

    def add(self, value: float, age: int) -> bool:
        """Whether this value, of the `age`-th label, raises the alarm; if so the test begins anew."""
        rise = value - self.mean
        self.count += 1
        self.mean += rise * max(_RATE, 1 / self.count)
        self.total = self.total + rise - self.slack if self.count > _SETTLING else 0.0
        if self.total <= self.least or self.count <= _SETTLING:
            self.least, self.since = self.total, age
        if self.total - self.least <= self.alarm:
            return False
        self.alarms += 1
        self.total = self.least = self.mean = 0.0
        self.count = 0
        return True

    @property
    def level(self) -> float:
        """How near the alarm is, in [0, 1]."""
        return min(1.0, (self.total - self.least) / self.alarm)
