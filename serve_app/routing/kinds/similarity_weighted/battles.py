"""Battles between tiers of models as a table of cells, and Bradley-Terry strengths from weighted wins.

Models of similar strength form a tier, as in RouteLLM (Ong et al. 2024, section 4.2 and its released code). Strengths
(Bradley & Terry 1952): P(a beats b) = sigmoid(theta_a - theta_b). This equals logistic regression without penalty on +1
for one model and -1 for the other, a tie being half a win for either, but reads a table of wins, on which alone the
likelihood depends, instead of a row for each battle.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import log
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from serve_app.arrays import Floats, sigmoid
from serve_app.data.preferences import Preferences
from serve_app.errors import ConfigError


def tiers_of(ratings: Floats, count: int) -> NDArray[np.int64]:
    """The tier of each rating, shape [n], 0 the lowest: at most `count` runs of neighbours in rating.

    Of all such groupings the one with the least sum of variances within the tiers, found by dynamic programming; with
    no more ratings than tiers everyone has its own. Raises ValueError for a count below one.
    """
    if count < 1:
        raise ValueError(f"{count} tiers: give at least one")
    n = len(ratings)
    order = np.argsort(ratings, kind="stable")
    ends = _ends(_variances(ratings[order]), min(count, n))
    tier = np.empty(n, dtype=np.int64)
    tier[order] = np.searchsorted(ends, np.arange(n), "right")
    return tier


def _variances(ranked: Floats) -> Floats:
    """Variance of ranked[i:j], shape [n, n + 1]; infinite where there is nothing between."""
    n = len(ranked)
    found = np.full((n, n + 1), np.inf)
    for i in range(n):
        for j in range(i + 1, n + 1):
            found[i, j] = ranked[i:j].var()
    return found


def _ends(cost: Floats, count: int) -> NDArray[np.int64]:
    """Where each tier ends, exclusive, shape [count]; `cost[i, j]` is that of a tier of items i to j - 1."""
    n = len(cost)
    best = cost[0].copy() if n else np.zeros(1)  # best[j]: items 0 to j - 1 in the tiers so far
    cut = np.zeros((count, n + 1), dtype=np.int64)
    for tier in range(1, count):
        totals = best[:n, None] + cost
        cut[tier] = totals.argmin(0)
        best = totals.min(0)
    ends = [n]
    for tier in range(count - 1, 0, -1):
        ends.append(int(cut[tier, ends[-1]]))
    return np.array(ends[::-1], dtype=np.int64)


ELO = 400 / log(10)
"""Elo points per unit of log-odds: at 400 points apart the odds are ten to one."""
_ROUNDS = 100
_CLOSE = 1e-9
"""Newton ends where no strength moves by more than this."""
_SMALLEST_STEP = 1e-9


def strengths(wins: Floats, start: Floats | None = None) -> Floats:
    """Maximum-likelihood theta, shape [k], mean zero; `wins[a, b]` is the weight of a's wins over b, shape [k, k].

    Two have a closed form, more take a few Newton steps from `start`. Raises ValueError where the likelihood has no
    maximum, see `has_maximum`.
    """
    if not has_maximum(wins):
        raise ValueError("the wins have no maximum-likelihood strengths: some never lose to the others")
    if len(wins) == 2:
        half = log(wins[0, 1] / wins[1, 0]) / 2
        return np.array([half, -half])
    return _newton(wins, np.zeros(len(wins)) if start is None else start)


def has_maximum(wins: Floats) -> bool:
    """Whether strengths are finite and unique: everyone is linked to everyone by a chain of wins (Ford 1957)."""
    reached = (wins > 0) | np.eye(len(wins), dtype=bool)
    for _ in range(max(1, len(wins)).bit_length()):
        reached = (reached.astype(np.int64) @ reached) > 0
    return bool(reached.all())


def linked(wins: Floats, member: int) -> NDArray[np.bool_]:
    """Who is linked to `member` by a chain of battles, won or lost, shape [k]."""
    met = (wins > 0) | (wins.T > 0)
    found = np.zeros(len(wins), dtype=bool)
    found[member] = True
    for _ in range(len(wins)):
        found |= met[found].any(0)
    return found


def curvature(wins: Floats, theta: Floats) -> Floats:
    """Minus the Hessian of the log-likelihood, shape [k, k]; its null space is the common level of all strengths."""
    chance = sigmoid(theta[:, None] - theta[None, :])
    between = (wins + wins.T) * chance * (1 - chance)
    laplacian: Floats = np.diag(between.sum(1)) - between
    return laplacian


def _newton(wins: Floats, theta: Floats) -> Floats:
    games = wins + wins.T
    won = wins.sum(1)
    value, level = _likelihood(wins, theta), _likelihood(wins, np.zeros_like(theta))
    if value < level:  # a start that is worse than none
        theta, value = np.zeros_like(theta), level
    for _ in range(_ROUNDS):
        gradient = won - (games * sigmoid(theta[:, None] - theta[None, :])).sum(1)
        # the last one's strength is held while the others move: theta is known up to a constant
        step = np.append(np.linalg.solve(curvature(wins, theta)[:-1, :-1], gradient[:-1]), 0.0)
        size = 1.0
        while (after := _likelihood(wins, theta + size * step)) < value and size > _SMALLEST_STEP:
            size /= 2
        theta, value = theta + size * step, after
        if np.abs(size * step).max() < _CLOSE:
            break
    centred: Floats = theta - theta.mean()
    return centred


def _likelihood(wins: Floats, theta: Floats) -> float:
    return float(-(wins * np.logaddexp(0, theta[None, :] - theta[:, None])).sum())


Positions = NDArray[np.int64]


@dataclass(frozen=True)
class BattleTable:
    """n battles between tiers: positions of both models in `names`, and how much of the win is the first's, shape [n].

    A cell is a pairing of two tiers with an outcome: weights summed by cell are all that a Bradley-Terry fit needs.
    """

    names: tuple[str, ...]
    tier_of: Mapping[str, int]
    models: tuple[str, str]
    """The pair that is routed: weak, strong."""
    first: Positions
    second: Positions
    won: Floats

    @classmethod
    def of(cls, battles: Preferences, models: tuple[str, str], tiers: int) -> tuple[Self, Positions]:
        """The table, and the rows of `battles` that are in it: those of models linked to the pair, across tiers.

        Raises ConfigError if the two are not linked by a chain of battles, or are in one tier.
        """
        names = sorted({*battles.model_a, *battles.model_b})
        for name in models:
            if name not in names:
                raise ConfigError(f"sw_ranking: no battle of {name!r} is decided; collect more, or give ties='half'")
        a, b = (np.array([names.index(n) for n in column]) for column in (battles.model_a, battles.model_b))
        wins = _summed(a, b, battles.outcome, len(names))
        inside = linked(wins, names.index(models[0]))
        if not inside[names.index(models[1])]:
            raise ConfigError(f"sw_ranking: no chain of battles links {models[0]!r} and {models[1]!r}; add some")
        among = np.flatnonzero(inside)
        table = wins[np.ix_(among, among)]
        elo = ELO * strengths(table + _missing(table, 0.5))
        tier = dict(zip((names[i] for i in among), tiers_of(elo, tiers).tolist(), strict=True))
        if tier[models[0]] == tier[models[1]]:
            raise ConfigError(f"sw_ranking: {models[0]!r} and {models[1]!r} are in one tier of {tiers}; raise tiers")
        level = np.array([tier.get(name, -1) for name in names])
        used = np.flatnonzero((level[a] != level[b]) & inside[a] & inside[b])
        return cls(tuple(names), tier, models, a[used], b[used], battles.outcome[used]), used

    @classmethod
    def from_arrays(
        cls, arrays: Mapping[str, NDArray[Any]], tier_of: Mapping[str, int], models: tuple[str, str]
    ) -> Self:
        """The table whose `arrays` were saved. Raises KeyError or ValueError if they do not fit together."""
        first, second = (arrays[name].astype(np.int64) for name in ("first", "second"))
        won = arrays["won"].astype(np.float64) / 2
        names = tuple(tier_of)
        if not len(first) == len(second) == len(won) or len(models) != 2 or not set(models) <= set(names):
            raise ValueError("battles, models and the pair do not fit together")
        if len(first) == 0 or min(first.min(), second.min()) < 0 or max(first.max(), second.max()) >= len(names):
            raise ValueError("a battle of a model that is not known")
        return cls(names, {str(n): int(t) for n, t in tier_of.items()}, models, first, second, won)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """What `from_arrays` reads, with the positions of models in `tier_of`."""
        place = {name: i for i, name in enumerate(self.tier_of)}
        at = np.array([place.get(name, -1) for name in self.names])
        return {
            "first": at[self.first].astype(np.int16),
            "second": at[self.second].astype(np.int16),
            "won": (self.won * 2).astype(np.int8),
        }

    @cached_property
    def tier_count(self) -> int:
        """How many tiers there are."""
        return max(self.tier_of.values()) + 1

    @property
    def pair(self) -> tuple[int, int]:
        """Tiers of the weak and of the strong model."""
        weak, strong = self.models
        return self.tier_of[weak], self.tier_of[strong]

    def battles(self, rows: Positions) -> tuple[Positions, Positions, Floats]:
        """Tiers of both sides, and how much of the win is the first's, of some battles."""
        return self._level[self.first[rows]], self._level[self.second[rows]], self.won[rows]

    def described(self, row: int) -> str:
        """The result in words."""
        a, b = self.names[self.first[row]], self.names[self.second[row]]
        if self.won[row] == 0.5:
            return f"{a} and {b} tied"
        return f"{a} beat {b}" if self.won[row] == 1.0 else f"{b} beat {a}"

    @cached_property
    def _level(self) -> Positions:
        return np.array([self.tier_of.get(name, -1) for name in self.names], dtype=np.int64)

    @cached_property
    def _cells(self) -> tuple[Positions, Positions]:
        """Keys of the cells that occur, ascending, and the cell of each battle; the lower tier comes first in a key."""
        a, b, won = self.battles(np.arange(len(self.won)))
        low, high = np.minimum(a, b), np.maximum(a, b)
        of_low = np.where(a < b, won, 1.0 - won)
        keys = (low * self.tier_count + high) * 3 + np.rint(of_low * 2).astype(np.int64)
        found, cell = np.unique(keys, return_inverse=True)
        return found, cell.astype(np.int64)

    @property
    def cell(self) -> Positions:
        """The cell of each battle, shape [n]."""
        return self._cells[1]

    @property
    def cell_count(self) -> int:
        """How many cells occur."""
        return len(self._cells[0])

    @cached_property
    def _spread(self) -> Floats:
        """What a unit of weight in each cell adds to the wins of each tier over each, shape [cells, k * k]."""
        k = self.tier_count
        keys = self._cells[0]
        low, high, of_low = keys // 3 // k, keys // 3 % k, keys % 3 / 2
        spread = np.zeros((len(keys), k * k))
        spread[np.arange(len(keys)), low * k + high] = of_low
        spread[np.arange(len(keys)), high * k + low] = 1.0 - of_low
        return spread

    def wins(self, totals: Floats) -> Floats:
        """Weight of each tier's wins over each, shape [k, k], from the sums by cell."""
        wins: Floats = (totals @ self._spread).reshape(self.tier_count, self.tier_count)
        return wins

    @property
    def pairings(self) -> int:
        """How many pairs of tiers met."""
        return len(np.unique(self._cells[0] // 3))

    def missing_losses(self, weight: float) -> Floats:
        """Zeros, shape [k, k]; or `weight` for either side of all that met, where wins alone have no best strengths."""
        return _missing(self.wins(np.bincount(self.cell).astype(np.float64)), weight)


def _summed(a: Positions, b: Positions, won: Floats, count: int) -> Floats:
    wins = np.bincount(a * count + b, weights=won, minlength=count**2)
    wins = wins + np.bincount(b * count + a, weights=1.0 - won, minlength=count**2)
    table: Floats = wins.reshape(count, count) * (1.0 - np.eye(count))
    return table


def _missing(wins: Floats, weight: float) -> Floats:
    if has_maximum(wins):
        return np.zeros_like(wins)
    return weight * ((wins > 0) | (wins.T > 0)).astype(np.float64)
