from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.cascade.routing.supermodels import STOP, View, best_supermodel, next_model
from serve_app.cascade.routing.walk import unit_of_moves


def view(quality, cost, called=0, move=None, allowed=-1):
    quality, cost = np.atleast_2d(np.array(quality, dtype=float)), np.atleast_2d(np.array(cost, dtype=float))
    k = quality.shape[1]
    factor = np.zeros((k, k)) if move is None else np.array(move, dtype=float)
    there = [bool(called >> m & 1) for m in range(k)]
    factor = np.where(np.array(there)[:, None], 0.0, factor)
    return View(called, quality, cost, factor, unit_of_moves(quality), allowed)


@st.composite
def situations(draw):
    k = draw(st.integers(2, 5))
    probability, price = st.floats(0.01, 0.99), st.floats(0.01, 1.0)
    quality = [draw(probability) for _ in range(k)]
    cost = [draw(price) for _ in range(k)]
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    called = draw(st.integers(0, 2**k - 2))
    return view(quality, cost, called, 0.5 * rng.standard_normal((k, k))), draw(st.floats(0.0, 3.0))


def test_routing_takes_the_model_of_the_best_quality_less_the_price_of_its_cost():
    rng = np.random.default_rng(0)
    quality, cost = rng.random((200, 4)), rng.random((200, 4))
    for price in (0.0, 0.3, 1.0, 5.0):
        found = next_model(view(quality, cost), price, "single")
        assert (found == (quality - price * cost).argmax(1)).all()


def test_routing_asks_nobody_twice():
    assert next_model(view([0.1, 0.9], [0.1, 0.1], called=1), 0.0, "single")[0] == STOP


@settings(max_examples=60, deadline=None)
@given(situations())
def test_pruning_loses_nothing(situation):
    seen, price = situation
    pruned, full = (best_supermodel(seen, price, "any", prune) for prune in (True, False))
    assert (pruned.models == full.models).all()
    assert pruned.value == pytest.approx(full.value, abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(situations())
def test_no_model_of_the_chosen_set_costs_more_than_it_adds(situation):
    seen, price = situation
    chosen = int(best_supermodel(seen, price, "any").models[0])
    for m in (m for m in range(seen.quality.shape[1]) if chosen >> m & 1):
        rest = chosen & ~(1 << m)
        if not rest and not seen.called:
            continue
        without = View(seen.called, seen.quality, seen.cost, seen.move, seen.unit, rest)
        value = best_supermodel(without, price, "any").value if rest else seen.best
        assert value <= best_supermodel(seen, price, "any").value + 1e-12


def test_a_model_that_does_not_pay_is_never_asked():
    strong_but_dear = view([[0.6, 0.7]], [[0.1, 1.0]], called=1)
    assert next_model(strong_but_dear, 0.2, "any")[0] == STOP
    assert next_model(strong_but_dear, 0.05, "any")[0] == 1


def test_what_may_still_move_makes_a_second_answer_worth_its_cost():
    sure = view([[0.7, 0.7]], [[0.1, 0.1]], called=1)
    unsure = view([[0.7, 0.7]], [[0.1, 0.1]], called=1, move=[[0, 0], [0, 0.8]])
    assert next_model(sure, 0.5, "any")[0] == STOP
    assert next_model(unsure, 0.5, "any")[0] == 1


def test_of_the_best_set_the_cheapest_is_asked_first_and_a_prefix_keeps_its_order():
    seen = view([[0.5, 0.5, 0.5]], [[0.3, 0.1, 0.2]], move=np.eye(3))
    assert next_model(seen, 0.01, "any")[0] == 1
    assert next_model(seen, 0.01, "prefix")[0] == 0


def test_a_cascade_skips_none():
    seen = view([[0.1, 0.2, 0.99]], [[0.1, 0.1, 0.1]])
    assert best_supermodel(seen, 0.1, "prefix").models[0] == 0b111
    assert best_supermodel(seen, 0.1, "any").models[0] == 0b100


def test_only_those_allowed_are_asked():
    seen = view([[0.1, 0.2, 0.9]], [[0.1, 0.1, 0.1]], allowed=0b011)
    for form in ("any", "single", "prefix"):
        assert next_model(seen, 0.0, form)[0] in (0, 1)


def test_an_endless_price_stops_as_soon_as_there_is_an_answer():
    seen = view([[0.1, 0.9]], [[0.1, 0.1]], called=1, move=np.eye(2))
    assert next_model(seen, np.inf, "any")[0] == STOP


@pytest.mark.parametrize("called", [0, 1])
def test_the_value_of_a_set_is_that_of_simulated_moves(called):
    rng = np.random.default_rng(3)
    factor = 0.4 * rng.standard_normal((3, 3))
    seen = view([[0.5, 0.6, 0.55]], [[0.0, 0.0, 0.0]], called, factor)
    draws = rng.standard_normal((400_000, 3)) @ seen.move.T * seen.unit + seen.quality
    for size in (1, 2, 3):
        for models in combinations(range(3), size):
            if called and 0 in models:
                continue
            mask = sum(1 << m for m in models)
            only = View(called, seen.quality, seen.cost, seen.move, seen.unit, mask)
            columns = [*models, 0] if called else list(models)
            sets = [s for n in range(1, size + 1) for s in combinations(models, n)]
            expected = max(draws[:, [*s, 0] if called else list(s)].max(1).mean() for s in sets)
            assert best_supermodel(only, 0.0, "any").value[0] == pytest.approx(expected, abs=0.02), columns
