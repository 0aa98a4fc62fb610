"""Which set of models to call next: the best trade of expected best quality against summed cost.

A supermodel is a set of models, those that have answered among them: its quality is the expected maximum of theirs,
its cost the sum of those still to call (Dekoninck et al. 2025, section 3). Expected maxima are submodular, so a model
that does not pay in a set does not pay in a larger one: such sets are never tried, and none of them could win.

The expected maximum of normal variables is exact for two (Clark 1961), and by fixed draws for more: pseudo-random with
their mirror images, scaled to unit variance, the same at every call.
"""

from dataclasses import dataclass
from functools import lru_cache
from math import pi, sqrt
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from serve_app.arrays import Floats
from serve_app.cascade.routing.estimates import by_size, members, parents

DRAWS = 128


def expected_max_of_two(one: Floats, other: Floats, std_of_difference: Floats) -> Floats:
    """E[max(X, Y)] of jointly normal X and Y, arrays of means of one shape: b + d Φ(d / s) + s φ(d / s), d = a - b."""
    d = one - other
    s = np.maximum(std_of_difference, 1e-12)
    t = d / s
    density = np.exp(-0.5 * t**2) / sqrt(2.0 * pi)
    found: Floats = other + d * _normal_cdf(t) + s * density
    return np.where(std_of_difference > 1e-12, found, np.maximum(one, other))


@lru_cache(maxsize=16)
def standard_draws(dimensions: int) -> Floats:
    """[DRAWS, dimensions] of a standard normal, mean 0 in each dimension. Do not write to it."""
    rng = np.random.default_rng(20_250_101)
    half = rng.standard_normal((DRAWS // 2, dimensions))
    half /= np.sqrt((half**2).mean(0))
    found = np.concatenate([half, -half])
    found.flags.writeable = False
    return found


def _normal_cdf(t: Floats) -> Floats:
    """Φ by Abramowitz & Stegun 7.1.26, off by at most 1e-7: numpy has no error function."""
    x = np.abs(t) / sqrt(2.0)
    k = 1.0 / (1.0 + 0.3275911 * x)
    tail = k * (0.254829592 + k * (-0.284496736 + k * (1.421413741 + k * (-1.453152027 + k * 1.061405429))))
    upper = 0.5 * tail * np.exp(-(x**2))
    return np.where(t >= 0, 1.0 - upper, upper)


Form = Literal["any", "prefix", "single"]
"""any: cascade routing. prefix: a cascade, whose models keep their order and none is skipped. single: routing, one
model and no second."""
STOP = -1


@dataclass(frozen=True, slots=True)
class View:
    """n queries in one state: `quality` and `cost` [n, K] as estimated, `move` the factor [K, K] of how far the
    quality of models to come may still move, `unit` [n, K] its unit (see uncertainty). `allowed`: those that may be
    called at all.
    """

    called: int
    quality: Floats
    cost: Floats
    move: Floats
    unit: Floats
    allowed: int = -1

    @property
    def new(self) -> list[int]:
        """Models that may still be called."""
        return members(self.allowed & ~self.called, self.quality.shape[1])

    @property
    def best(self) -> Floats:
        """Estimated quality of the best answer so far [n]; 0 with none, which is below any answer's."""
        there = members(self.called, self.quality.shape[1])
        return self.quality[:, there].max(1) if there else np.zeros(len(self.quality))


@dataclass(frozen=True, slots=True)
class Best:
    """For each query [n]: the supermodel's new models as a mask (0: stop), and its value, quality - λ cost."""

    models: NDArray[np.int64]
    value: Floats


def best_supermodel(view: View, price: float, form: Form, prune: bool = True) -> Best:
    """The best of all sets that `form` allows. `price` is λ, in quality for a US dollar.

    Of sets of equal value the first, a smaller one, is taken. Pruning changes nothing but the time it takes.
    """
    n = len(view.quality)
    value = view.best if view.called else np.full(n, -np.inf)
    models = np.zeros(n, dtype=np.int64)
    if price == np.inf and view.called:
        return Best(models, value)
    net: dict[int, Floats] = {0: value}
    expected = _Expected(view)
    alive: dict[int, NDArray[np.bool_]] = {}
    for added in _sets(view, form):
        wins = np.ones(n, dtype=bool)
        smaller = [p for p in parents(added) if p in net]
        if prune and form == "any":
            for parent in smaller:
                wins &= alive.get(parent, wins)
            if not wins.any():
                alive[added] = wins
                continue
        found = expected(added) - price * view.cost[:, members(added, view.quality.shape[1])].sum(1)
        for parent in smaller if form == "any" else ():
            wins &= found >= net[parent]
        net[added], alive[added] = found, wins
        better = found > value
        value, models = np.where(better, found, value), np.where(better, added, models)
    return Best(models, value)


def next_model(view: View, price: float, form: Form) -> NDArray[np.int64]:
    """Model to call next for each query [n], or STOP: of the best supermodel the cheapest (a prefix's: the next)."""
    if form == "single" and view.called:
        return np.full(len(view.quality), STOP)
    models = best_supermodel(view, price, form).models
    found = np.full(len(models), STOP)
    for added in np.unique(models[models > 0]).tolist():
        new = members(added, view.quality.shape[1])
        rows = models == added
        found[rows] = new[0] if form == "prefix" else np.array(new)[view.cost[np.ix_(rows, new)].argmin(1)]
    return found


def _sets(view: View, form: Form) -> list[int]:
    """Sets of new models, the smaller ones first."""
    if form == "single":
        return [1 << m for m in view.new]
    if form == "prefix":
        ahead = [m for m in view.new if m >= view.called.bit_length()]
        return [sum(1 << m for m in ahead[:end]) for end in range(1, len(ahead) + 1)]
    new = sum(1 << m for m in view.new)
    return [models for models in by_size(view.quality.shape[1]) if models and not models & ~new]


class _Expected:
    """Expected quality of the best answer of those there and a set of new ones, each set's maxima kept for larger ones.

    Exact where two estimates are all there is, by fixed draws otherwise: never a mix, which would not be submodular.
    """

    def __init__(self, view: View) -> None:
        self._view = view
        new = view.new
        self._exact = len(new) + bool(view.called) <= 2
        self._certain = not view.move.any()
        self._maxima: dict[int, Floats] = {}
        if not self._exact and not self._certain:
            self._draws = standard_draws(view.quality.shape[1]) @ view.move.T

    def __call__(self, added: int) -> Floats:
        """[n]."""
        view = self._view
        columns = members(added, view.quality.shape[1])
        if self._certain:
            found: Floats = np.maximum(view.quality[:, columns].max(1), view.best)
            return found
        if self._exact:
            return self._exactly(columns)
        mean: Floats = np.maximum(self._best_of(added), view.best[:, None]).mean(1)
        return mean

    def _exactly(self, columns: list[int]) -> Floats:
        view = self._view
        moves = view.unit[:, columns, None] * view.move[columns]
        first = view.quality[:, columns[0]]
        if len(columns) == 2:
            apart = np.linalg.norm(moves[:, 0] - moves[:, 1], axis=1)
            return expected_max_of_two(first, view.quality[:, columns[1]], apart)
        if not view.called:
            return first
        return expected_max_of_two(view.best, first, np.linalg.norm(moves[:, 0], axis=1))

    def _best_of(self, added: int) -> Floats:
        """Maxima over the set of each draw [n, draws]."""
        found = self._maxima.get(added)
        if found is None:
            last = added.bit_length() - 1
            rest = added & ~(1 << last)
            alone = self._view.quality[:, last, None] + self._view.unit[:, last, None] * self._draws[:, last]
            found = self._maxima[added] = np.maximum(self._best_of(rest), alone) if rest else alone
        return found
