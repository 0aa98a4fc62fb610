"""Notices that the LLM's labels are no longer what the levels have learned: Page's test on the forecast of being wrong.

E. S. Page, "Continuous inspection schemes" (Biometrika 1954); as a change detector of streams: Gama, Medas, Castillo,
Rodrigues (SBIA 2004). Each query that reached the LLM gives one residual: [the top level's label differs from the
LLM's] - [forecast probability of that]. Without drift it is 0 on average whichever queries were asked, as the forecast
is calibrated given what it reads; so audited and deferred queries count alike, and a shift is seen within tens of them.
"""

from dataclasses import dataclass


@dataclass(slots=True)
class PageHinkley:
    """One-sided: alarms when residuals rise. `slack`: rise per label that is let pass; `alarm`: sum that alarms.

    `since` is the age of the label after which the sum began to rise: labels before it are from before the change.
    """

    slack: float
    alarm: float
    total: float = 0.0
    least: float = 0.0
    since: int = 0
    alarms: int = 0

    def add(self, residual: float, age: int) -> bool:
        """Whether this residual, of the `age`-th label, raises the alarm; if so the test begins anew."""
        self.total += residual - self.slack
        if self.total <= self.least:
            self.least, self.since = self.total, age
        if self.total - self.least <= self.alarm:
            return False
        self.alarms += 1
        self.total = self.least = 0.0
        return True

    @property
    def level(self) -> float:
        """How near the alarm is, in [0, 1]."""
        return min(1.0, (self.total - self.least) / self.alarm)
