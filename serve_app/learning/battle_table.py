"""Battles as a table: who met whom in which tier, and the cell that a battle's weight is summed in."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from serve_app.errors import ConfigError
from serve_app.learning.bradley_terry import ELO, has_maximum, linked, strengths
from serve_app.learning.preferences import Preferences
from serve_app.learning.tiers import tiers_of

Floats = NDArray[np.float64]
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

        Raises ConfigError if the two are not linked by a chain of battles, or lie in one tier.
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
            raise ConfigError(f"sw_ranking: {models[0]!r} and {models[1]!r} lie in one tier of {tiers}; raise tiers")
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

    def told(self, row: int) -> str:
        """Who beat whom."""
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
