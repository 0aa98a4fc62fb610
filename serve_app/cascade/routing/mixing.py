"""Meets a budget exactly, with two policies of one shape: the cheaper and the dearer side of one λ, drawn with share γ.

As λ falls a policy spends more, in steps where estimates tie. Of the two limits of such a step one breaks ties to the
cheapest, the other to the dearest, and a coin between them spends any mean in between (Dekoninck et al. 2025, theorem
1); no single λ could.

A shape is what later decisions pay, how far estimates are taken to move, and how free the order of models is. The paper
gives every step its own λ and searches over all of them. A few hundred rows are too few for that: here the first
decision has λ, later ones a multiple of it, and one factor scales the uncertainty. One such shape serves all; another
replaces it where cross-fitted rows leave no doubt. Constants are from the train part of recorded answers.

The baselines need no estimate: each model alone, and mixtures of two. A policy that does worse is not served.
"""

from dataclasses import dataclass, replace
from math import sqrt

import numpy as np

from serve_app.arrays import Floats
from serve_app.cascade.routing.supermodels import Form
from serve_app.cascade.routing.walk import NextModelPolicy, Tables, Walked, always, walk
from serve_app.errors import ConfigError
from serve_app.numbers import significant

PRICES = 40
"""Rungs of the ladder of λ."""
_SLACK = 1e-9


@dataclass(frozen=True, slots=True)
class Mixture:
    """`dear` with probability `share`, else `cheap`."""

    cheap: NextModelPolicy
    dear: NextModelPolicy
    share: float

    def policy(self, coin: float) -> NextModelPolicy:
        """The policy of a query whose uniform draw in [0, 1) is `coin`. Draw once for each query, not each decision."""
        return self.dear if coin < self.share else self.cheap


@dataclass(frozen=True, slots=True)
class Rung:
    """A policy and what it does."""

    policy: NextModelPolicy
    walked: Walked

    @property
    def cost_usd(self) -> float:
        """Mean."""
        return float(self.walked.cost_usd.mean())

    @property
    def quality(self) -> float:
        """Mean."""
        return float(self.walked.quality.mean())


def prices(cost_usd: Floats, rungs: int = PRICES) -> list[float]:
    """λ from where only the cheapest model pays down to 0, for costs [n, K] in US dollars.

    No quality is worth more than 1, so above 1 over the cheapest model's cost no second model is called.
    """
    cheapest = cost_usd.mean(0)
    unit = 1.0 / max(float(cheapest[cheapest > 0].min()) if (cheapest > 0).any() else 1.0, 1e-300)
    return [4.0 * unit, *(np.geomspace(2.0, 1e-4, rungs - 2) * unit).tolist(), 0.0]


def ladder(tables: Tables, shape: NextModelPolicy, at: list[float] | None = None) -> list[Rung]:
    """The policies of one shape at falling λ, walked; before them the cheapest model alone, their limit."""
    found = [replace(shape, price=price) for price in (prices(tables.cost_usd) if at is None else at)]
    found = [always(int(tables.cost_usd.mean(0).argmin())), *found]
    return [Rung(policy, walk(tables, policy)) for policy in found]


def mix(rungs: list[Rung], budget_usd: float) -> Mixture:
    """The mixture of two neighbouring rungs whose mean cost is the budget; the dearest rung alone if it costs less.

    Raises ConfigError for a budget below the cheapest rung.
    """
    costs = [rung.cost_usd for rung in rungs]
    if budget_usd < min(costs) * (1 - _SLACK):
        raise ConfigError(
            f"a budget of {significant(budget_usd)} USD a query cannot be kept: the cheapest costs "
            f"{significant(min(costs))}; raise it"
        )
    kept = [i for i, cost in enumerate(costs) if cost <= budget_usd * (1 + _SLACK)]
    last = max(kept)  # λ falls with i: the lowest price that keeps the budget
    if last == len(rungs) - 1:
        return Mixture(rungs[last].policy, rungs[last].policy, 0.0)
    cheap, dear = rungs[last], rungs[last + 1]
    share = (budget_usd - cheap.cost_usd) / (dear.cost_usd - cheap.cost_usd)
    return Mixture(cheap.policy, dear.policy, min(max(share, 0.0), 1.0))


def refined(tables: Tables, rungs: list[Rung], budget_usd: float, steps: int = 12) -> Mixture:
    """`mix`, after λ between the two rungs was halved `steps` times: the two sides of one λ, as near as it matters."""
    found = mix(rungs, budget_usd)
    cheap, dear = found.cheap, found.dear
    if cheap == dear:
        return found
    sides = [Rung(policy, walk(tables, policy)) for policy in (cheap, dear)]
    high, low = cheap.price if cheap.form == dear.form else 64.0 * dear.price, dear.price
    for _ in range(steps):
        between = (high * low) ** 0.5 if low > 0 else high / 8.0
        rung = Rung(policy := replace(dear, price=between), walk(tables, policy))
        high, low = (between, low) if rung.cost_usd <= budget_usd else (high, between)
        sides[0 if rung.cost_usd <= budget_usd else 1] = rung
    return mix(sides, budget_usd)


def expected(tables: Tables, mixture: Mixture) -> Walked:
    """The mixture in expectation over its coin: quality and cost of each query; `called` is the dear one's."""
    cheap, dear = walk(tables, mixture.cheap), walk(tables, mixture.dear)
    pairs, share = ((cheap.quality, dear.quality), (cheap.cost_usd, dear.cost_usd)), mixture.share
    quality, cost_usd = ((1 - share) * one + share * other for one, other in pairs)
    return Walked(quality, cost_usd, dear.called, dear.answer)


SPREAD = 0.5
"""Below 1: part of what moves in an estimate is its own error."""
LATER = 0.7
"""Below 1: the price of a set counts all its models, although a later one may never be called."""
MARGIN = 0.1
"""How much better an answer must look than that of the strongest model called."""
SPREADS = (0.25, 0.5, 1.0)
LATERS = (0.4, 0.7, 1.0)
NARROWER: dict[Form, tuple[Form, ...]] = {
    "any": ("any", "prefix", "single"),
    "prefix": ("prefix",),
    "single": ("single",),
}
"""What a form may be narrowed to: if any model may be next, the order may also be kept, or only one model be called."""
ROUNDS = 200


@dataclass(frozen=True, slots=True)
class Shaped:
    """A shape with its ladder, and the area under quality against cost on the rows it was walked on."""

    shape: NextModelPolicy
    rungs: list[Rung]
    area: float


def shapes(form: Form) -> list[NextModelPolicy]:
    """All that are tried, first the one that serves where nothing else is surely better; routing has one."""
    if form == "single":
        return [NextModelPolicy(price=0.0, spread=0.0, form=form)]
    usual = NextModelPolicy(price=0.0, later=LATER, spread=SPREAD, form=form, margin=MARGIN)
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
    if not others:
        return first
    areas = _resampled(tables, first, seed)
    ahead = [float(np.percentile(_resampled(tables, other, seed) - areas, 2.5)) for other in others]
    return others[int(np.argmax(ahead))] if max(ahead) > 0 else first


def _shaped(tables: Tables, shape: NextModelPolicy) -> Shaped:
    rungs = ladder(tables, shape)
    return Shaped(shape, rungs, float(_areas(rungs, tables, [np.ones(len(tables.ok))])[0]))


def _areas(rungs: list[Rung], tables: Tables, samples: list[Floats]) -> Floats:
    """An area for each sample, in which row i counts `counts[i]` times."""
    costs = np.array([rung.walked.cost_usd for rung in rungs])
    qualities = np.array([rung.walked.quality for rung in rungs])
    found = []
    for counts in samples:
        means = counts @ tables.cost_usd
        points = np.column_stack([costs @ counts, qualities @ counts]) / counts.sum()
        found.append(mean_quality(points, float(means.min()) / counts.sum(), float(means.max()) / counts.sum()))
    return np.array(found)


def _resampled(tables: Tables, one: Shaped, seed: int) -> Floats:
    """Areas over resampled rows, the same rows for every shape."""
    rng, n = np.random.default_rng(seed), len(tables.ok)
    drawn = [np.bincount(rng.integers(0, n, n), minlength=n).astype(np.float64) for _ in range(ROUNDS)]
    return _areas(one.rungs, tables, drawn)


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


GUARD = 0.5
"""Policies fitted on one half of train rows and held against single models on the other: with less more of them fall
below, with more good ones are lost."""


@dataclass(frozen=True, slots=True)
class SingleMix:
    """The best of single models and mixtures of two at a mean cost of `budget_usd`: `cheap`, or `dear` with `share`."""

    cheap: int
    dear: int
    share: float
    quality: float
    cost_usd: float

    def mixture(self) -> Mixture:
        """As a policy that uses no estimates."""
        return Mixture(always(self.cheap), always(self.dear), self.share)


def best_model(ok: Floats, cost_usd: Floats, at_most_usd: float) -> int | None:
    """The best model of at most this mean cost, from qualities and costs [n, K]; None if there is none."""
    inside = np.flatnonzero(cost_usd.mean(0) <= at_most_usd * (1 + 1e-9))
    return int(inside[ok[:, inside].mean(0).argmax()]) if len(inside) else None


def pays(quality: Floats, ok: Floats, cost_usd: Floats, spent_usd: float) -> bool:
    """Whether qualities [n] at a mean cost of `spent_usd` are worth more than the best model of at most that cost.

    The gain must be at least `GUARD` of its standard error: figures that a policy was chosen by flatter it.
    """
    best = best_model(ok, cost_usd, spent_usd)
    if best is None:
        return True
    gain = quality - ok[:, best]
    return float(gain.mean()) >= GUARD * float(gain.std()) / sqrt(len(gain))


def best_single_mix(ok: Floats, cost_usd: Floats, budget_usd: float) -> SingleMix:
    """From qualities and costs [n, K]: the point of the upper hull at the budget, or its top where that costs less.

    Raises ConfigError for a budget below the cheapest model.
    """
    quality, cost = ok.mean(0), cost_usd.mean(0)
    inside = np.flatnonzero(cost <= budget_usd * (1 + 1e-9))
    if len(inside) == 0:
        raise ConfigError(
            f"a budget of {significant(budget_usd)} USD a query cannot be kept: the cheapest model costs "
            f"{significant(cost.min())}; raise it"
        )
    best = max(inside.tolist(), key=lambda m: (quality[m], -cost[m]))
    found = SingleMix(best, best, 0.0, float(quality[best]), float(cost[best]))
    for cheap in inside.tolist():
        for dear in np.flatnonzero(cost > budget_usd * (1 + 1e-9)).tolist():
            share = float((budget_usd - cost[cheap]) / (cost[dear] - cost[cheap]))
            mixed = float((1 - share) * quality[cheap] + share * quality[dear])
            if mixed > found.quality:
                found = SingleMix(cheap, dear, share, mixed, budget_usd)
    return found
