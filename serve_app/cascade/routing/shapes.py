"""The shape of a policy: what later decisions pay, how far estimates are taken to move; chosen on cross-fitted rows.

The paper gives every step its own λ and searches over all of them. A few hundred rows do not carry so many: here the
first decision has λ, later ones a multiple of it, and one factor scales the uncertainty.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serve_app.cascade.routing.mixing import Rung, ladder
from serve_app.cascade.routing.supermodels import Form
from serve_app.cascade.routing.walk import Policy, Tables

Floats = NDArray[np.float64]
SPREADS = (0.25, 0.5, 1.0)
"""Below 1: part of what moves in an estimate is its own error."""
LATERS = (0.4, 0.7, 1.0)
"""Below 1: the price of a set counts all its models, although a later one may never be asked."""


@dataclass(frozen=True, slots=True)
class Shaped:
    """A shape with its ladder, and the area under quality against cost on the rows it was walked on."""

    shape: Policy
    rungs: list[Rung]
    area: float


def shapes(form: Form) -> list[Policy]:
    """All that are tried; routing has one."""
    if form == "single":
        return [Policy(price=0.0, spread=0.0, form=form)]
    return [Policy(price=0.0, later=later, spread=spread, form=form) for spread in SPREADS for later in LATERS]


def choose_shape(tables: Tables, candidates: list[Policy]) -> Shaped:
    """The candidate of the largest area between the mean costs of the cheapest and the dearest model."""
    means = tables.cost_usd.mean(0)
    found = []
    for shape in candidates:
        rungs = ladder(tables, shape)
        points = np.array([[rung.cost_usd, rung.quality] for rung in rungs])
        found.append(Shaped(shape, rungs, mean_quality(points, float(means.min()), float(means.max()))))
    return max(found, key=lambda one: one.area)


def mean_quality(points: Floats, low: float, high: float) -> float:
    """Area under the line through (cost, quality) points [p, 2] from cost `low` to `high`, over its width.

    Level beyond the outermost points; of points of one cost the best counts.
    """
    order = np.lexsort((points[:, 1], points[:, 0]))
    cost, quality = points[order].T
    last = np.append(np.diff(cost) > 0, True)
    cost, quality = cost[last], quality[last]
    if high <= low:
        return float(np.interp(low, cost, quality))
    inside = (cost > low) & (cost < high)
    at = np.concatenate([[low], cost[inside], [high]])
    return float(np.trapezoid(np.interp(at, cost, quality), at) / (high - low))
