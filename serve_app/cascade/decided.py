"""A decision by bins of a raw signal, in the place of a calibrator: 1 where the answer is taken, 0 where it is not.

AutoMix's double threshold and its POMDP take hopeless answers too, so that what is taken is not one side of a
threshold. With a level's threshold at 0.5 such a decision is served like any other.
"""

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from math import isfinite, isnan
from typing import Any, ClassVar, Self


@dataclass(frozen=True, slots=True)
class DecidedCalibrator:
    """`takes[b]` for values in bin b; `edges`, rising, part the bins (a value on an edge is in the bin above)."""

    edges: tuple[float, ...]
    takes: tuple[bool, ...]
    kind: ClassVar[str] = "decided"

    def __post_init__(self) -> None:
        rises = all(a < b for a, b in pairwise(self.edges)) and all(map(isfinite, self.edges))
        if not rises or len(self.takes) != len(self.edges) + 1:
            raise ValueError("edges must be finite and rise, and takes have one more")

    def probability(self, value: float) -> float:
        """1 where the answer is taken, otherwise 0; 0 for nan. Not monotone, and no probability of being right."""
        return 0.0 if isnan(value) else float(self.takes[bisect_right(self.edges, value)])

    def spec(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"kind": self.kind, "edges": list(self.edges), "takes": list(self.takes)}

    @classmethod
    def of(cls, spec: Mapping[str, Any]) -> Self:
        """From its spec. Raises KeyError, TypeError or ValueError."""
        return cls(tuple(map(float, spec["edges"])), tuple(map(bool, spec["takes"])))
