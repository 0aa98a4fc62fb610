import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.data.dataset import Dataset, PoolAnswers
from serve_app.routing.estimate import Estimate
from serve_app.routing.frontier import multi_pool_curve, oracle_frontier, recorded, upper_hull
from serve_app.types import Message, Price, Query

PRICES = {"tiny": Price(0, 1.0), "small": Price(0, 10.0), "large": Price(0, 100.0)}


def world(n: int = 600, seed: int = 0) -> tuple[Dataset, Estimate]:
    """Queries of three levels: every pool answers the first, tiny fails on the second, only large does the third.
    The estimate knows the level. Ten tokens an answer."""
    rng = np.random.default_rng(seed)
    level = rng.integers(0, 3, n)
    right = {"tiny": level < 1, "small": level < 2, "large": level < 3}
    ten = np.full((n, 1), 10.0)
    pools = {
        name: PoolAnswers(
            name,
            (("a",),) * n,
            (rng.random((n, 1)) < np.where(ok, 0.95, 0.05)[:, None]).astype(float),
            ten * PRICES[name].output_usd_per_million / 1e6,
            ten,
            ten,
        )
        for name, ok in right.items()
    }
    queries = tuple(Query((Message("user", f"level {i}"),)) for i in level)
    quality = np.stack([np.where(ok, 0.95, 0.05) for ok in right.values()], axis=1)
    tens = np.full_like(quality, 10.0)
    return Dataset(queries, pools, ("",) * n), Estimate(tuple(right), quality, quality * 0, tens, tens)


def test_the_ends_are_the_cheapest_pool_and_the_best_answers() -> None:
    data, estimate = world()
    curve = multi_pool_curve(data, estimate, PRICES)
    assert curve.share[0].tolist() == [1.0, 0.0, 0.0]
    assert (curve.quality[0], curve.cost_usd[0]) == pytest.approx(curve.single["tiny"])
    assert curve.quality[-1] > curve.single["large"][0] - 0.03
    np.testing.assert_allclose(curve.share.sum(1), 1.0)


def test_choosing_beats_every_single_pool_and_their_mixtures() -> None:
    data, estimate = world()
    curve = multi_pool_curve(data, estimate, PRICES)
    x, y = upper_hull(*(np.array([point[i] for point in curve.single.values()]) for i in (1, 0)))
    for cost in np.linspace(x[0] * 5, x[-1] * 0.8, 5):
        assert curve.quality_at(cost) > np.interp(cost, x, y) + 0.05


def test_no_choice_lies_above_the_oracle() -> None:
    data, estimate = world()
    curve, oracle = multi_pool_curve(data, estimate, PRICES), oracle_frontier(data)
    for cost in curve.cost_usd:
        assert curve.quality_at(cost) <= oracle.quality_at(cost) + 1e-9


def test_costs_are_the_recorded_ones() -> None:
    data, estimate = world()
    dear = {name: Price(0, 7 * p.output_usd_per_million) for name, p in PRICES.items()}
    curve = multi_pool_curve(data, estimate, dear)
    _, cost = recorded(data, curve.pools)
    assert cost.mean(0).min() == pytest.approx(curve.cost_usd[0])


def test_an_estimate_of_other_queries_is_refused() -> None:
    data, estimate = world()
    with pytest.raises(ValueError, match="600 queries"):
        multi_pool_curve(data, estimate.row(0), PRICES)


def test_a_cost_below_the_cheapest_cannot_be_met() -> None:
    data, estimate = world()
    assert np.isnan(multi_pool_curve(data, estimate, PRICES).quality_at(1e-9))


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=20))
def test_the_hull_lies_on_or_above_every_point(points: list[tuple[float, float]]) -> None:
    x, y = upper_hull(np.array([p[0] for p in points]), np.array([p[1] for p in points]))
    assert (np.diff(x) > 0).all() and (np.diff(y) > 0).all()
    for cost, quality in points:
        assert np.interp(cost, x, y) >= quality - 1e-9
    assert set(zip(x.tolist(), y.tolist(), strict=True)) <= set(points)
