"""How good a router is on queries that it was not fitted on: every figure with its interval, ready for JSON.

Cost advantage is the share of queries that the weak model answers (Hybrid LLM, arXiv 2404.14618, section 4.1); PGR,
APGR and CPT are RouteLLM's (arXiv 2406.18665, section 2.3); definitions are those of `learning.metrics`. A resample is
a weight for each query (how often it was drawn), so that scores are sorted once and many resamples go through one pass
of sums. Two routers on the same queries get the same resamples for the same seed, so that their differences are paired
(Efron & Tibshirani 1993, chapters 6 and 13). The interval of the calibration error lies high: a resample's own noise
counts as error in every bin.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from serve_app.arrays import Floats
from serve_app.data.dataset import Dataset
from serve_app.learning.metrics import (
    Curve,
    Interval,
    average_pgr,
    cost_quality_curve,
    decile_curve,
    oracle_curve,
    percentile_interval,
    resamples,
    share_reaching,
)

if TYPE_CHECKING:
    from serve_app.decision.threshold import Calibration

ROUNDS = 1000
LEVEL = 0.95
ADVANTAGES = (0.1, 0.2, 0.4)
"""Cost advantages at which Hybrid LLM's main table reports the quality drop."""
BINS = 10
_CELLS = 2_000_000
"""Weights held at once: 16 MB."""


@dataclass(frozen=True, slots=True)
class ScoredQueries:
    """Queries with a router's score, and the quality and cost of both models' answers; arrays of shape [n]."""

    scores: Floats
    win_rate: Floats
    weak_quality: Floats
    strong_quality: Floats
    weak_cost_usd: Floats
    strong_cost_usd: Floats

    def __len__(self) -> int:
        return len(self.scores)


class WeightedFigures:
    """The figures of one router under weights; `names` are those of the columns of a table."""

    def __init__(self, queries: ScoredQueries, thresholds: Sequence[float] = ()) -> None:
        order = np.argsort(-queries.scores, kind="stable")
        ranked = queries.scores[order]
        self._order = order
        self._n = len(order)
        self._last = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), self._n - 1)
        self._scores = ranked
        self._wins = queries.win_rate[order]
        self._weak, self._strong = queries.weak_quality[order], queries.strong_quality[order]
        self._weak_cost, self._strong_cost = queries.weak_cost_usd[order], queries.strong_cost_usd[order]
        parts = np.array_split(np.arange(self._n), min(BINS, self._n))
        self._bins = np.array([part[0] for part in parts])
        self._chosen = {f"{t:.10g}": (ranked >= t).astype(np.float64) for t in thresholds}

    def of_data(self) -> dict[str, float]:
        """Each figure on the data as they are."""
        return {name: float(values[0]) for name, values in self.under(np.ones((1, self._n))).items()}

    def under(self, weights: Floats) -> dict[str, Floats]:
        """Each figure under weights of shape [rounds, n] in the order of the data; values of shape [rounds]."""
        w = weights[:, self._order]
        total = w.sum(1)
        weak, strong = w @ self._weak / total, w @ self._strong / total
        share = self._running(w) / total[:, None]
        quality = weak[:, None] + self._running(w * (self._strong - self._weak)) / total[:, None]
        found = {"weak_quality": weak, "strong_quality": strong, "auc": self._auc(w)}
        found["calibration_error"] = self._calibration_error(w) / total
        found |= _gap_figures(share, quality, weak, strong)
        for advantage in ADVANTAGES:
            at = _interpolated(share, quality, 1.0 - advantage)
            found[f"drop_at_{advantage:.0%}"] = _drop(at, strong)
        for name, chosen in self._chosen.items():
            found |= self._at(name, w, chosen, weak, strong)
        return found

    def _at(self, name: str, w: Floats, chosen: Floats, weak: Floats, strong: Floats) -> dict[str, Floats]:
        """Figures at one threshold."""
        total = w.sum(1)
        quality = w @ np.where(chosen > 0, self._strong, self._weak) / total
        cost = w @ np.where(chosen > 0, self._strong_cost, self._weak_cost) / total
        dearest = w @ self._strong_cost / total
        gap = np.where(strong != weak, strong - weak, np.nan)
        return {
            f"share@{name}": w @ chosen / total,
            f"quality@{name}": quality,
            f"drop@{name}": _drop(quality, strong),
            f"pgr@{name}": (quality - weak) / gap,
            f"cost_usd@{name}": cost,
            f"cost_share@{name}": np.divide(cost, dearest, out=np.full_like(cost, np.nan), where=dearest > 0),
        }

    def _running(self, values: Floats) -> Floats:
        """Sums over the queries down to each distinct score, with nothing before the first; [rounds, points]."""
        sums = np.cumsum(values, axis=1)[:, self._last]
        return np.concatenate([np.zeros((len(values), 1)), sums], axis=1)

    def _auc(self, w: Floats) -> Floats:
        """P(a win of the strong model scores above a query without one), ties half; soft outcomes count in part."""
        wins, others = (np.diff(self._running(w * y), axis=1) for y in (self._wins, 1.0 - self._wins))
        below = others[:, ::-1].cumsum(axis=1)[:, ::-1] - others / 2
        pairs = wins.sum(1) * others.sum(1)
        area: Floats = np.divide((wins * below).sum(1), pairs, out=np.full_like(pairs, np.nan), where=pairs > 0)
        return area

    def _calibration_error(self, w: Floats) -> Floats:
        error: Floats = np.abs(np.add.reduceat(w * (self._scores - self._wins), self._bins, axis=1)).sum(1)
        return error


def resampled(figures: WeightedFigures, n: int, rounds: int = ROUNDS, seed: int = 0) -> dict[str, Floats]:
    """Each figure on `rounds` bootstrap resamples of n queries, shape [rounds]."""
    parts = [figures.under(weights) for weights in _weights(n, rounds, seed)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def intervals(values: dict[str, float], rounds: dict[str, Floats], level: float = LEVEL) -> dict[str, Interval]:
    """Percentile intervals; resamples in which a figure does not exist (one class, no gap) are left out."""
    return {name: percentile_interval(value, rounds[name], level) for name, value in values.items()}


def _weights(n: int, rounds: int, seed: int) -> Iterator[Floats]:
    """How often each query is drawn, [rounds at a time, n]."""
    drawn = resamples(n, rounds, seed)
    while batch := [np.bincount(rows, minlength=n) for rows in islice(drawn, max(1, _CELLS // n))]:
        yield np.stack(batch).astype(np.float64)


def _gap_figures(share: Floats, quality: Floats, weak: Floats, strong: Floats) -> dict[str, Floats]:
    """APGR and CPT; nan where weak and strong are equally good."""
    gap = np.where(strong != weak, strong - weak, np.nan)[:, None]
    pgr = (quality - weak[:, None]) / gap
    cpt = {"cpt50": share_reaching(share, pgr, 0.5), "cpt80": share_reaching(share, pgr, 0.8)}
    return {"apgr": np.trapezoid(pgr, share, axis=1), **cpt}


def _interpolated(share: Floats, quality: Floats, at: float) -> Floats:
    return np.array([np.interp(at, s, q) for s, q in zip(share, quality, strict=True)])


def _drop(quality: Floats, strong: Floats) -> Floats:
    size = np.abs(strong)
    drop: Floats = np.divide(strong - quality, size, out=np.zeros_like(quality), where=size > 0)
    return drop


_POINTS = 200
"""Points of a curve that are kept: a plot shows no more."""
_CARD = ("weak_quality", "strong_quality", "auc", "calibration_error", "apgr", "cpt50", "cpt80")


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A router's figures on one dataset. `figures` are named as in `WeightedFigures`."""

    router: str
    version: str
    queries: int
    thresholds: tuple[float, ...]
    figures: dict[str, Interval]
    oracle_apgr: float
    routellm_apgr: float
    """APGR over thresholds at score deciles, as RouteLLM's own evaluation takes it."""
    curve: Curve
    oracle: Curve
    reliability: list[dict[str, float]]

    def at(self, threshold: float) -> dict[str, Interval]:
        """Share, quality, drop, pgr, cost_usd and cost_share at one of the thresholds."""
        suffix = f"@{threshold:.10g}"
        return {name.removesuffix(suffix): value for name, value in self.figures.items() if name.endswith(suffix)}

    def to_json(self) -> dict[str, Any]:
        """JSON-ready; what does not exist (no gap, one class) is null."""
        plain = {name: value for name, value in self.figures.items() if "@" not in name}
        return {
            "router": self.router,
            "version": self.version,
            "queries": self.queries,
            "figures": {name: interval_json(value) for name, value in plain.items()},
            "apgr_oracle": _number(self.oracle_apgr),
            "apgr_routellm_deciles": _number(self.routellm_apgr),
            "thresholds": [
                {"threshold": t, **{name: interval_json(value) for name, value in self.at(t).items()}}
                for t in self.thresholds
            ],
            "reliability": self.reliability,
            "curve": _curve_json(self.curve),
            "oracle_curve": _curve_json(self.oracle),
        }


def scored_queries(scores: Floats, dataset: Dataset) -> ScoredQueries:
    """A router's scores of the dataset's queries, with the quality and cost of both models' answers."""
    weak, strong = dataset.weak, dataset.strong
    qualities = (weak.quality.mean(1), strong.quality.mean(1))
    return ScoredQueries(scores, dataset.strong_win_rate(), *qualities, weak.cost_usd.mean(1), strong.cost_usd.mean(1))


def evaluate(
    of: tuple[str, str], found: ScoredQueries, thresholds: Sequence[float] = (), rounds: int = ROUNDS, seed: int = 0
) -> Evaluation:
    """All figures of the router `of` = (name, version), with 95 % intervals from `rounds` bootstrap resamples."""
    qualities = (found.weak_quality, found.strong_quality)
    figures = WeightedFigures(found, thresholds)
    found_intervals = intervals(figures.of_data(), resampled(figures, len(found), rounds, seed))
    curve = cost_quality_curve(found.scores, *qualities, found.weak_cost_usd, found.strong_cost_usd)
    oracle = oracle_curve(*qualities)
    gap = curve.weak != curve.strong
    return Evaluation(
        *of,
        len(found),
        tuple(thresholds),
        found_intervals,
        average_pgr(oracle) if gap else float("nan"),
        average_pgr(decile_curve(found.scores, *qualities)) if gap else float("nan"),
        curve,
        oracle,
        reliability(found.scores, found.win_rate),
    )


def reliability(scores: Floats, outcomes: Floats, bins: int = BINS) -> list[dict[str, float]]:
    """Mean score and mean outcome in bins of equal mass, score ascending, with the outcome's standard error."""
    parts = np.array_split(np.argsort(scores, kind="stable"), min(bins, len(scores)))
    return [
        {
            "score": round(float(scores[p].mean()), 6),
            "outcome": round(float(outcomes[p].mean()), 6),
            "standard_error": round(float(outcomes[p].std() / np.sqrt(len(p))), 6),
            "queries": len(p),
        }
        for p in parts
    ]


def router_metrics(calibration: "Calibration", threshold: float, seed: int = 0) -> dict[str, float | list[float]]:
    """The figures of a router's card; `*_interval` are 95 % bootstrap intervals. What does not exist is left out.

    The strong model wins a query if its mean quality is higher, since a calibration keeps means.
    """
    weak, strong = calibration.weak_quality, calibration.strong_quality
    zero = np.zeros(len(weak))
    costs = (zero if c is None else c for c in (calibration.weak_cost_usd, calibration.strong_cost_usd))
    found = ScoredQueries(calibration.scores, (strong > weak).astype(np.float64), weak, strong, *costs)
    evaluation = evaluate(("", ""), found, (threshold,), seed=seed)
    at = evaluation.at(threshold)
    chosen = {name: evaluation.figures[name] for name in _CARD}
    chosen |= {"strong_share": at["share"], "quality": at["quality"], "quality_drop": at["drop"]}
    figures: dict[str, float | list[float]] = {"queries": float(len(weak))}
    for name, value in chosen.items():
        if np.isfinite(value.value):
            figures[name] = value.value
            if name in ("apgr", "quality_drop"):
                figures[f"{name}_interval"] = [value.low, value.high]
    if np.isfinite(evaluation.oracle_apgr):
        figures["apgr_routellm_deciles"] = evaluation.routellm_apgr
        figures["apgr_oracle"] = evaluation.oracle_apgr
    return figures


def interval_json(value: Interval) -> dict[str, float | None]:
    """Value, low and high to eight digits; null where the figure does not exist."""
    return {"value": _number(value.value), "low": _number(value.low), "high": _number(value.high)}


def _number(value: float) -> float | None:
    return float(f"{value:.8g}") if np.isfinite(value) else None


def _curve_json(curve: Curve) -> dict[str, list[float]]:
    at = np.unique(np.linspace(0, len(curve.share) - 1, _POINTS).round().astype(int))
    columns = {"share": curve.share, "quality": curve.quality, "cost_usd": curve.cost_usd}
    columns["threshold"] = curve.thresholds
    return {name: [float(f"{v:.8g}") for v in values[at]] for name, values in columns.items()}
