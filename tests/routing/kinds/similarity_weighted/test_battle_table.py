"""Cells add up to the wins of tiers, and what is left out or refused."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from serve_app.data.preferences import Preferences
from serve_app.errors import ConfigError
from serve_app.routing.kinds.similarity_weighted.battles import BattleTable
from serve_app.types import Message, Query

ASK = Query((Message("user", "?"),))


def battles(*told: tuple[str, str, float]) -> Preferences:
    a, b, won = zip(*told, strict=True)
    return Preferences((ASK,) * len(told), a, b, np.array(won))


def arena(models: int, n: int, seed: int) -> Preferences:
    """Battles among models whose strength rises with their number."""
    rng = np.random.default_rng(seed)
    a = rng.integers(0, models, n)
    b = (a + rng.integers(1, models, n)) % models
    chance = 1 / (1 + np.exp((b - a) / models * 3))
    won = np.where(rng.random(n) < 0.1, 0.5, (rng.random(n) < chance).astype(float))
    names = [f"m{i:02}" for i in range(models)]
    return Preferences((ASK,) * n, tuple(names[i] for i in a), tuple(names[i] for i in b), won)


def test_cells_add_up_to_the_wins_of_each_tier_over_each() -> None:
    given = arena(25, 2000, seed=1)
    table, used = BattleTable.of(given, ("m02", "m22"), 10)
    weights = np.random.default_rng(2).uniform(1, 100, len(used))
    expected = np.zeros((10, 10))
    for row, weight in zip(used, weights, strict=True):
        a, b = table.tier_of[given.model_a[row]], table.tier_of[given.model_b[row]]
        assert a != b
        expected[a, b] += weight * given.outcome[row]
        expected[b, a] += weight * (1 - given.outcome[row])
    totals = np.bincount(table.cell, weights=weights, minlength=table.cell_count)
    assert_allclose(table.wins(totals), expected)
    assert 100 < len(given) - len(used) < 1000  # battles within a tier
    assert table.tier_count == 10 and table.pairings <= 45 and table.cell_count <= 135
    assert table.pair[0] < table.pair[1]


def test_saved_and_read_it_is_the_same() -> None:
    table, _ = BattleTable.of(arena(12, 300, seed=3), ("m00", "m11"), 5)
    again = BattleTable.from_arrays(table.arrays(), table.tier_of, table.models)
    rows = np.arange(len(table.won))
    for one, other in zip(table.battles(rows), again.battles(rows), strict=True):
        assert np.array_equal(one, other)
    assert [again.described(i) for i in rows] == [table.described(i) for i in rows]
    assert all(np.array_equal(x, again.arrays()[name]) for name, x in table.arrays().items())


def test_who_is_not_linked_to_the_pair_is_left_out() -> None:
    given = battles(("s", "w", 1.0), ("w", "s", 1.0), ("x", "y", 1.0), ("w", "s", 0.5))
    table, used = BattleTable.of(given, ("w", "s"), 10)
    assert used.tolist() == [0, 1, 3] and dict(table.tier_of).keys() == {"s", "w"}
    assert [table.described(i) for i in range(3)] == ["s beat w", "w beat s", "w and s tied"]


def test_a_side_that_never_lost_loses_half_a_battle() -> None:
    table, _ = BattleTable.of(battles(("s", "w", 1.0), ("s", "w", 1.0)), ("w", "s"), 10)
    assert table.missing_losses(5.0).tolist() == [[0.0, 5.0], [5.0, 0.0]]
    fair, _ = BattleTable.of(battles(("s", "w", 1.0), ("s", "w", 0.0)), ("w", "s"), 10)
    assert not fair.missing_losses(5.0).any()


def test_what_cannot_rank_the_pair_is_refused() -> None:
    with pytest.raises(ConfigError, match="'s'"):
        BattleTable.of(battles(("x", "w", 1.0)), ("w", "s"), 10)
    with pytest.raises(ConfigError, match="'w' and 's'"):
        BattleTable.of(battles(("x", "w", 1.0), ("y", "s", 1.0)), ("w", "s"), 10)
    with pytest.raises(ConfigError, match="tiers"):
        BattleTable.of(arena(20, 2000, seed=1), ("m01", "m02"), 2)


def test_arrays_that_do_not_fit_are_refused() -> None:
    table, _ = BattleTable.of(battles(("s", "w", 1.0)), ("w", "s"), 10)
    arrays = table.arrays()
    for broken in (
        {**arrays, "won": arrays["won"][:0]},
        {**arrays, "first": arrays["first"] + 7},
        {**arrays, "second": arrays["second"] - 7},
    ):
        with pytest.raises(ValueError, match=r"fit together|not known"):
            BattleTable.from_arrays(broken, table.tier_of, table.models)
