"""What is read from a setting's curves: areas, their differences, dominance by single models, the plain table."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.cascades.curves import Curve, area, interval, quality_at
from benchmarks.cascades.methods import FITTED, Setting
from benchmarks.cascades.settings import Row
from serve_app.cascade.routing.mixing import best_model

Floats = NDArray[np.float64]
OURS = "cascade routing"
JUDGED = ("cascade", "calibrated")
"""Calibrated cascades. The first is held to the rows: the better one by cross-validation on train."""


def areas(setting: Setting, curves: Mapping[str, Curve], counts: Sequence[Floats]) -> dict[str, dict[str, Any]]:
    """For each method: the area with its interval, and that of cascade routing less it, on the same resamples."""
    low, high = setting.range_usd
    values = {name: area(curve.points(), low, high) for name, curve in curves.items()}
    drawn = {
        name: np.array([area(curve.points(weights), low, high) for weights in counts]) for name, curve in curves.items()
    }
    return {
        name: {
            "area": values[name],
            "interval": interval(drawn[name]),
            "below_ours": values[OURS] - values[name],
            "below_ours_interval": interval(drawn[OURS] - drawn[name]),
            "note": curves[name].note,
            "guarded": sum(curves[name].guarded),
            "budgets": len(curves[name].guarded),
        }
        for name in curves
    }


def not_below(found: Mapping[str, dict[str, Any]]) -> bool:
    """Whether cascade routing's area is below no other's by more than chance."""
    return all(one["below_ours_interval"][1] >= 0.0 for name, one in found.items() if name != OURS)


def dominated(setting: Setting, curve: Curve, counts: Sequence[Floats]) -> dict[str, Any]:
    """Points of a curve below the best single model of at most its test cost: how many, how many beyond chance.

    Single models are those a reader of the test set would choose. `worst`: the largest shortfall.
    """
    ok, cost = setting.test.ok, setting.test.cost_usd
    means = cost.mean(0)
    below, beyond, worst = 0, 0, 0.0
    for quality, spent in zip(curve.quality, curve.cost_usd, strict=True):
        inside = np.flatnonzero(means <= spent.mean() * (1 + 1e-9))
        if len(inside) == 0:
            continue
        best = int(inside[ok[:, inside].mean(0).argmax()])
        gain = quality - ok[:, best]
        if gain.mean() < -1e-12:
            below += 1
            beyond += interval(np.array([gain @ w / w.sum() for w in counts]))[1] < 0.0
            worst = max(worst, -float(gain.mean()))
    return {"points": len(curve.quality), "below": below, "beyond_chance": int(beyond), "worst": worst}


def dominance(setting: Setting, curves: Mapping[str, Curve], counts: Sequence[Floats]) -> dict[str, dict[str, Any]]:
    """Of each fitted method, and of the plain threshold cascade for comparison."""
    return {name: dominated(setting, curves[name], counts) for name in (*FITTED, "threshold")}


def plain_rows(
    setting: Setting, curves: Mapping[str, Curve], rows: Sequence[Row], counts: Sequence[Floats]
) -> list[dict[str, Any]]:
    """The plain cascade's rows and each method's test accuracy at the same mean test cost.

    A row is beaten by accuracy strictly above it. `less_threshold`: 95 % of how far
    above the recomputed plain cascade, on the same resamples.
    `hindsight`: the most that thresholds on the raw confidence give there, mixed and chosen by the test answers.
    """
    always = float(setting.test.cost_usd[:, -1].mean())
    return [_plain_row(row, row.cost_share * always, setting, curves, counts) for row in rows]


def _plain_row(
    row: Row, cost: float, setting: Setting, curves: Mapping[str, Curve], counts: Sequence[Floats]
) -> dict[str, Any]:
    at = {name: quality_at(curve.points(), cost) for name, curve in curves.items()}

    def drawn(name: str) -> Floats:
        return np.array([quality_at(curves[name].points(w), cost) for w in counts])

    threshold = drawn("threshold")
    above = {name: drawn(name) - threshold for name in JUDGED}
    return {
        "data": row.data,
        "setting": list(row.setting),
        "cost_share": row.cost_share,
        "plain": row.accuracy,
        "best_single": best_single(setting.test.ok, setting.test.cost_usd, cost),
        "hindsight": hull_at(curves["threshold"].points(), cost),
        "at": at,
        "less_threshold": {name: interval(found) for name, found in above.items()},
        "beaten": {name: at[name] > row.accuracy for name in JUDGED},
    }


def hull_at(points: Floats, cost: float) -> float:
    """Quality at a cost on the upper hull of points (cost, quality): the best mixture of two of them."""
    below, above = points[points[:, 0] <= cost], points[points[:, 0] > cost]
    best = float(below[:, 1].max()) if len(below) else float(points[points[:, 0].argmin(), 1])
    for low_cost, low in below.tolist():
        for high_cost, high in above.tolist():
            best = max(best, low + (high - low) * (cost - low_cost) / (high_cost - low_cost))
    return best


def best_single(ok: Floats, cost_usd: Floats, at_most_usd: float) -> float:
    """Quality of the best model of at most this mean cost; 0 if there is none."""
    best = best_model(ok, cost_usd, at_most_usd)
    return 0.0 if best is None else float(ok[:, best].mean())
