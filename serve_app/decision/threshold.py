"""Thresholds calibrated to a share of strong calls, a quality, or a cost; and the expected outcome at a score.

Ties: a threshold cannot split queries of equal score. Of the points that a threshold can reach, each target takes the
nearest one within its bound: at most the share, at most the cost, at most the drop (at the smallest such share). A
router with few distinct scores may therefore stay below a share, never above it; `share` holds the one reached.
"""

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from serve_app.arrays import Floats, read_arrays
from serve_app.data.dataset import Dataset
from serve_app.errors import ConfigError, reading
from serve_app.learning.metrics import Curve, cost_quality_curve
from serve_app.numbers import usd
from serve_app.pools.base import Pool
from serve_app.types import Price

FORMAT = 1
_ARRAYS = ("scores", "weak_quality", "strong_quality", "weak_tokens", "strong_tokens")
_COSTS = ("weak_cost_usd", "strong_cost_usd")


@dataclass(frozen=True, slots=True)
class Calibration:
    """For each calibration query its score, and the mean quality and tokens of both answers.

    Shapes [n], tokens [n, 2] (prompt, completion). The router was fitted on none of these queries. Costs, shape [n],
    are None where none were recorded.
    """

    scores: Floats
    weak_quality: Floats
    strong_quality: Floats
    weak_tokens: Floats
    strong_tokens: Floats
    weak_cost_usd: Floats | None = None
    strong_cost_usd: Floats | None = None

    def __post_init__(self) -> None:
        n = len(self.scores)
        held = self._held()
        wrong = [name for name, a in held.items() if a.shape != ((n, 2) if name.endswith("tokens") else (n,))]
        if n == 0 or wrong:
            raise ValueError(f"calibration of {n} queries: wrong shape of {', '.join(wrong) or 'scores'}")
        if not all(np.isfinite(a).all() for a in held.values()):
            raise ValueError("calibration holds values that are not finite")

    @classmethod
    def of(cls, scores: Floats, dataset: Dataset) -> Self:
        """From a router's scores of a dataset's queries."""
        weak, strong = dataset.weak, dataset.strong
        qualities = (weak.quality.mean(1), strong.quality.mean(1))
        costs = (weak.cost_usd.mean(1), strong.cost_usd.mean(1))
        return cls(scores, *qualities, weak.mean_tokens(), strong.mean_tokens(), *costs)

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def has_costs(self) -> bool:
        """Whether costs were recorded; costs of 0 throughout stand for none."""
        costs = (self.weak_cost_usd, self.strong_cost_usd)
        return any(cost is not None and cost.any() for cost in costs)

    def take(self, rows: NDArray[np.int64]) -> Self:
        """Some of the queries, in the order given."""
        return type(self)(**{name: array[rows] for name, array in self._held().items()})

    def curve(self, weak: Price | None = None, strong: Price | None = None) -> Curve:
        """The cost-quality curve, with costs at these prices; without them at the recorded costs (none: free)."""
        zero = np.zeros(len(self.scores))
        costs = (
            token_cost_usd(self.weak_tokens, weak) if weak is not None else self.weak_cost_usd,
            token_cost_usd(self.strong_tokens, strong) if strong is not None else self.strong_cost_usd,
        )
        weak_cost, strong_cost = (zero if cost is None else cost for cost in costs)
        return cost_quality_curve(self.scores, self.weak_quality, self.strong_quality, weak_cost, strong_cost)

    def save(self, path: Path) -> None:
        """One npz file; scores as float64, the rest as float32."""
        arrays: dict[str, Any] = {n: a.astype(np.float32) for n, a in self._held().items() if n != "scores"}
        np.savez_compressed(path, format=np.array(FORMAT), scores=self.scores, **arrays)

    @classmethod
    def load(cls, path: Path) -> Self:
        """The calibration saved there. Raises ConfigError naming the file and what to do."""
        with reading(path, "calibrate the router again", ValueError, KeyError):
            data = read_arrays(path)
            version = int(data["format"])
            if version != FORMAT:
                raise ConfigError(f"{path}: format is {version}, this version reads {FORMAT}; calibrate again")
            held = [*_ARRAYS, *(name for name in _COSTS if name in data)]
            return cls(**{name: data[name].astype(np.float64) for name in held})

    def _held(self) -> dict[str, Floats]:
        """The arrays that are there, by name."""
        found = {name: getattr(self, name) for name in (*_ARRAYS, *_COSTS)}
        return {name: array for name, array in found.items() if array is not None}


@dataclass(frozen=True, slots=True)
class Threshold:
    """Strong if score >= `value`. The other fields are read from the calibration data's curve at that point."""

    value: float
    target: str
    share: float
    quality: float
    drop: float
    cost_usd: float
    curve: Curve

    @classmethod
    def for_share(cls, calibration: Calibration, share: float) -> Self:
        """At most this share of strong calls, as near as ties allow."""
        curve = calibration.curve()
        return cls._at(curve, int(np.flatnonzero(curve.share <= share + 1e-12)[-1]), f"share <= {share:g}")

    @classmethod
    def for_drop(cls, calibration: Calibration, max_drop: float) -> Self:
        """The smallest share of strong calls with a relative mean quality drop of at most `max_drop`."""
        curve = calibration.curve()
        return cls._at(curve, int(np.flatnonzero(curve.drop <= max_drop + 1e-12)[0]), f"drop <= {max_drop:g}")

    @classmethod
    def for_cost(
        cls, calibration: Calibration, mean_cost_usd: float, weak: Price | None = None, strong: Price | None = None
    ) -> Self:
        """The largest share of strong calls with a mean cost per query of at most `mean_cost_usd`.

        Costs are those recorded unless prices are given. Raises ConfigError where there are neither, or if even the
        cheapest point costs more.
        """
        if (weak is None or strong is None) and not calibration.has_costs:
            raise ConfigError("a cost target needs recorded costs or prices; the calibration data hold no costs")
        curve = calibration.curve(weak, strong)
        within = np.flatnonzero(curve.cost_usd <= mean_cost_usd * (1 + 1e-12))
        if len(within) == 0:
            raise ConfigError(
                f"a mean cost of {usd(mean_cost_usd)} a query cannot be met: the cheapest is "
                f"{usd(curve.cost_usd.min())}; raise the target"
            )
        return cls._at(curve, int(within[-1]), f"cost <= {usd(mean_cost_usd)}")

    @classmethod
    def of_value(cls, calibration: Calibration, value: float, target: str) -> Self:
        """A given threshold, with its figures on the calibration data."""
        curve = calibration.curve()
        strong = int(np.sum(calibration.scores >= value))
        at = int(np.searchsorted(curve.share, strong / len(calibration) - 0.5 / len(calibration)))
        return replace(cls._at(curve, at, target), value=value)

    @classmethod
    def _at(cls, curve: Curve, i: int, target: str) -> Self:
        values = (curve.thresholds, curve.share, curve.quality, curve.drop, curve.cost_usd)
        value, share, quality, drop, cost = (float(v[i]) for v in values)
        return cls(value, target, share, quality, drop, cost, curve)


def token_cost_usd(tokens: NDArray[np.float64], price: Price) -> Floats:
    """Cost of each query in US dollars; tokens of shape [n, 2] (prompt, completion)."""
    rates = np.array([price.input_usd_per_million, price.output_usd_per_million]) / 1e6
    cost: Floats = tokens @ rates
    return cost


_BINS = 20
"""Bins of equal mass; 4,000 calibration queries leave 200 for each, a standard error of 0.035 at worst."""


class ExpectedOutcome:
    """Mean quality and cost of both pools' answers among calibration queries of a similar score."""

    def __init__(self, calibration: Calibration, weak: Pool, strong: Pool) -> None:
        order = np.argsort(calibration.scores, kind="stable")
        costs = (
            token_cost_usd(calibration.weak_tokens, weak.price),
            token_cost_usd(calibration.strong_tokens, strong.price),
        )
        qualities = (calibration.weak_quality, calibration.strong_quality)
        self._starts: list[float] = []
        self._table: list[dict[str, dict[str, float]]] = []
        for part in np.array_split(order, min(_BINS, len(order))):
            start = float(calibration.scores[part[0]])
            if self._starts and start == self._starts[-1]:
                continue
            self._starts.append(start)
            self._table.append(
                {
                    pool.name: {"quality": round(float(quality[part].mean()), 4), "cost_usd": float(cost[part].mean())}
                    for pool, quality, cost in zip((weak, strong), qualities, costs, strict=True)
                }
            )

    def at(self, score: float) -> Mapping[str, Mapping[str, float]]:
        """By pool name: `quality` in [0, 1] and `cost_usd`."""
        return self._table[max(0, bisect_right(self._starts, score) - 1)]
