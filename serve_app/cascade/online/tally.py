"""What a stream's learner counts for status and metrics."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from serve_app.cascade.online.base import Walk

WHY = ("confident", "deferred", "explored", "audit", "warm-up")
_MEMORY = 0.98
"""Weight of what is known in a moving average: about the last 50 values."""


class Tally:
    """Counts of walks by level and by reason; agreement with the LLM before its label was learned."""

    def __init__(self, levels: int) -> None:
        self.queries = 0
        self.unparsed = 0
        self._by_level = [0] * (levels + 1)
        self._computed = [0] * levels
        self._why = dict.fromkeys(WHY, 0)
        self._audits = [0, 0]
        self._agreement: float | None = None
        self._level_agreement: list[float | None] = [None] * levels

    def saw(self, walk: Walk) -> None:
        """Count a walk."""
        self.queries += 1
        self._by_level[-1 if walk.level is None else walk.level] += 1
        self._why[walk.why] = self._why.get(walk.why, 0) + 1
        for j in range(len(walk.probabilities)):
            self._computed[j] += 1

    def checked(self, walk: Walk, agreed: bool | None, by_level: NDArray[np.bool_]) -> None:
        """An LLM label came. `agreed`: of the level that would have answered, None if none would."""
        if walk.why == "audit" and agreed is not None:
            self._audits[0] += 1
            self._audits[1] += agreed
            self._agreement = _moved(self._agreement, float(agreed))
        self._level_agreement = [_moved(a, float(b)) for a, b in zip(self._level_agreement, by_level, strict=True)]

    def figures(self, kinds: tuple[str, ...]) -> dict[str, object]:
        """JSON-ready."""
        seen = max(1, self.queries)
        return {
            "queries": self.queries,
            "llm_calls": self._by_level[-1],
            "llm_share": self._by_level[-1] / seen,
            "share": {kind: n / seen for kind, n in zip(kinds, self._by_level, strict=False)},
            "computed": dict(zip(kinds, self._computed, strict=True)),
            "why": dict(self._why),
            "unparsed": self.unparsed,
            "audits": self._audits[0],
            "agreement": self._agreement,
            "agreement_overall": self._audits[1] / self._audits[0] if self._audits[0] else None,
            "level_agreement": dict(zip(kinds, self._level_agreement, strict=True)),
        }

    def state(self) -> dict[str, Any]:
        """JSON-ready; `restore` is the inverse."""
        return {k.lstrip("_"): v if not isinstance(v, dict | list) else v.copy() for k, v in vars(self).items()}

    def restore(self, values: dict[str, Any]) -> None:
        """Take up what `state` gave. Raises KeyError for one that is not whole."""
        for name in vars(self):
            value = values[name.lstrip("_")]
            setattr(self, name, value.copy() if isinstance(value, dict | list) else value)


def _moved(average: float | None, value: float) -> float:
    return value if average is None else _MEMORY * average + (1 - _MEMORY) * value
