from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.cascades.figures import best_single
from serve_app.cascade.routing.mixing import (
    best_model,
    best_single_mix,
    expected,
    ladder,
    mix,
    pays,
    prices,
    refined,
)
from serve_app.cascade.routing.walk import NextModelPolicy, walk
from serve_app.errors import ConfigError
from tests.cascade.routing.worlds import fixed

ROUTING = NextModelPolicy(0.0, form="single", spread=0.0)


def world(n=300, k=3, seed=0):
    rng = np.random.default_rng(seed)
    quality = np.clip(np.linspace(0.4, 0.9, k) + 0.2 * rng.standard_normal((n, k)), 0, 1)
    return fixed(quality, 1e-4 * np.array([1, 4, 16])[:k] * (0.5 + rng.random((n, 1))))


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(share=st.floats(0.0, 1.0), form=st.sampled_from(["any", "single", "prefix"]))
def test_the_budget_is_met_exactly(share, form):
    tables = world(60)
    rungs = ladder(tables, NextModelPolicy(0.0, form=form, spread=0.0))
    low, high = rungs[0].cost_usd, rungs[-1].cost_usd
    budget = (1 - share) * low + share * high
    for found in (mix(rungs, budget), refined(tables, rungs, budget)):
        assert expected(tables, found).cost_usd.mean() == pytest.approx(budget, rel=1e-9)


def test_where_all_queries_tie_one_price_spends_all_or_nothing_and_the_mix_what_it_should():
    tables = fixed([[0.5, 0.9]] * 10, [[1.0, 3.0]] * 10)
    assert {
        float(walk(tables, NextModelPolicy(p, form="single", spread=0.0)).cost_usd.mean()) for p in (0.0, 0.19, 0.21)
    } == {
        1.0,
        3.0,
    }
    found = refined(tables, ladder(tables, ROUTING), 1.5)
    assert found.share == pytest.approx(0.25)
    assert (found.cheap.price, found.dear.price) == (pytest.approx(0.2, rel=0.01), pytest.approx(0.2, rel=0.01))
    assert expected(tables, found).quality.mean() == pytest.approx(0.6)


def test_routing_under_a_budget_is_optimal():
    """Theorem 1 of the paper: no assignment of models to queries, fractions allowed, is better at that mean cost."""
    linprog = pytest.importorskip("scipy.optimize").linprog
    tables = world(40)
    n, k = tables.ok.shape
    for budget in (2e-4, 5e-4, 1e-3):
        found = expected(tables, refined(tables, ladder(tables, ROUTING), budget, steps=40))
        best = linprog(
            -tables.ok.ravel() / n,
            A_ub=tables.cost_usd.ravel()[None] / n,
            b_ub=[found.cost_usd.mean()],
            A_eq=np.kron(np.eye(n), np.ones(k)),
            b_eq=np.ones(n),
        )
        assert found.quality.mean() == pytest.approx(-best.fun, abs=1e-6)


def test_a_budget_beyond_what_pays_is_not_spent():
    tables = fixed([[0.9, 0.5]] * 5, [[1.0, 3.0]] * 5)
    found = mix(ladder(tables, ROUTING), 100.0)
    assert found.cheap == found.dear
    assert expected(tables, found).cost_usd.mean() == 1.0


def test_a_budget_below_the_cheapest_is_refused():
    tables = world()
    with pytest.raises(ConfigError, match="kept"):
        mix(ladder(tables, ROUTING), 1e-9)
    with pytest.raises(ConfigError, match="cheapest"):
        best_single_mix(tables.ok, tables.cost_usd, 1e-9)


def test_the_coin_draws_the_dear_policy_with_its_share():
    tables = fixed([[0.5, 0.9]] * 10, [[1.0, 3.0]] * 10)
    found = mix(ladder(tables, ROUTING), 1.5)
    coins = np.linspace(0, 1, 1000, endpoint=False)
    assert np.mean([found.policy(coin) == found.dear for coin in coins]) == pytest.approx(found.share, abs=2e-3)


def test_prices_fall_to_nothing():
    found = prices(np.array([[1e-5, 1e-3]]))
    assert found[-1] == 0.0
    assert all(a > b for a, b in pairwise(found))
    assert prices(np.zeros((3, 2)))[0] > 0  # free models


def test_single_models_mix_along_their_upper_hull():
    ok = np.tile([0.5, 0.52, 0.9], (10, 1))
    cost = np.tile([1.0, 2.0, 3.0], (10, 1))
    found = best_single_mix(ok, cost, 2.0)
    assert (found.cheap, found.dear, found.share) == (0, 2, 0.5)
    assert found.quality == pytest.approx(0.7)
    assert best_single_mix(ok, cost, 9.0).quality == pytest.approx(0.9)
    assert best_single(ok, cost, 2.5) == pytest.approx(0.52)
    assert best_single(ok, cost, 0.5) == 0.0


def test_a_gain_over_the_best_single_model_must_be_half_its_standard_error():
    ok = np.column_stack([np.arange(100) < 60, np.arange(100) < 70]).astype(float)
    cost = np.tile([1.0, 2.0], (100, 1))
    assert best_model(ok, cost, 0.5) is None and best_model(ok, cost, 1.0) == 0 and best_model(ok, cost, 2.0) == 1

    def quality(right, wrong):
        """Of the dear model's, with so many more right and so many more wrong."""
        found = ok[:, 1].copy()
        found[70 : 70 + right], found[:wrong] = 1.0, 0.0
        return found

    assert pays(quality(0, 0), ok, cost, 2.0)  # the model itself
    assert pays(quality(1, 0), ok, cost, 2.0)  # surely no worse
    assert pays(quality(8, 4), ok, cost, 2.0)
    assert not pays(quality(9, 8), ok, cost, 2.0)  # one more of 17 that differ is luck
    assert not pays(quality(0, 1), ok, cost, 2.0)
    assert pays(quality(0, 4), ok, cost, 1.5)  # against the cheap one, which is all that this cost buys
    assert not pays(quality(0, 9), ok, cost, 1.5)
    assert pays(quality(0, 70), ok, cost, 0.5)
