"""The shape of a policy: what later decisions pay, how far estimates are taken to move, and how free the walk is.

The paper gives every step its own λ and searches over all of them. A few hundred rows do not carry so many: here the
first decision has λ, later ones a multiple of it, and one factor scales the uncertainty. One such shape serves all;
another replaces it where cross-fitted rows leave no doubt. Constants are from the train part of recorded answers.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from serve_app.cascade.routing.mixing import Rung, ladder
from serve_app.cascade.routing.supermodels import Form
from serve_app.cascade.routing.walk import Policy, Tables

Floats = NDArray[np.float64]
SPREAD = 0.5
"""Below 1: part of what moves in an estimate is its own error."""
LATER = 0.7
"""Below 1: the price of a set counts all its models, although a later one may never be asked."""
MARGIN = 0.1
"""How much better an answer must look than that of the strongest model asked."""
SPREADS = (0.25, 0.5, 1.0)
LATERS = (0.4, 0.7, 1.0)
NARROWER: dict[Form, tuple[Form, ...]] = {
    "any": ("any", "prefix", "single"),
    "prefix": ("prefix",),
    "single": ("single",),
}
"""What a form may be narrowed to: a walk that may ask any model next may also keep the order, or ask one only."""
ROUNDS = 200


@dataclass(frozen=True, slots=True)
class Shaped:
    """A shape with its ladder, and the area under quality against cost on the rows it was walked on."""

    shape: Policy
    rungs: list[Rung]
    area: float


def shapes(form: Form) -> list[Policy]:
    """All that are tried, first the one that serves where nothing else is surely better; routing has one."""
    if form == "single":
        return [Policy(price=0.0, spread=0.0, form=form)]
    usual = Policy(price=0.0, later=LATER, spread=SPREAD, form=form, margin=MARGIN)
    others = [replace(usual, later=later, spread=spread) for spread in SPREADS for later in LATERS]
    return [usual, *(shape for shape in others if shape != usual)]


def choose_shape(tables: Tables, form: Form, seed: int = 0) -> Shaped:
    """The form of the largest area between the mean costs of the cheapest and the dearest model, and its shape.

    More freedom is more that estimates can get wrong, so that a narrower form may do better. Another shape than the
    usual is taken only if the 95 % interval of the difference of areas, over resampled rows, lies above 0.
    """
    usual = [_shaped(tables, shapes(narrow)[0]) for narrow in NARROWER[form]]
    first = max(usual, key=lambda one: one.area)
    others = [_shaped(tables, shape) for shape in shapes(first.shape.form)[1:]]
    ahead = [_ahead(tables, other, first, seed) for other in others]
    return others[int(np.argmax(ahead))] if max(ahead, default=0.0) > 0 else first


def _shaped(tables: Tables, shape: Policy) -> Shaped:
    rungs = ladder(tables, shape)
    return Shaped(shape, rungs, _area(rungs, tables, np.ones(len(tables.ok))))


def _area(rungs: list[Rung], tables: Tables, counts: Floats) -> float:
    """With row i counted `counts[i]` times."""
    cost = np.array([rung.walked.cost_usd for rung in rungs]) @ counts
    quality = np.array([rung.walked.quality for rung in rungs]) @ counts
    means = counts @ tables.cost_usd
    points = np.column_stack([cost, quality]) / counts.sum()
    return mean_quality(points, float(means.min()) / counts.sum(), float(means.max()) / counts.sum())


def _ahead(tables: Tables, one: Shaped, other: Shaped, seed: int) -> float:
    """Lower end of the 95 % interval of how much larger the area of `one` is."""
    rng, n = np.random.default_rng(seed), len(tables.ok)
    drawn = [np.bincount(rng.integers(0, n, n), minlength=n).astype(np.float64) for _ in range(ROUNDS)]
    gains = [_area(one.rungs, tables, counts) - _area(other.rungs, tables, counts) for counts in drawn]
    return float(np.percentile(gains, 2.5))


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
