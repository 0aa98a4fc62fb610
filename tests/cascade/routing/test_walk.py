import numpy as np
import pytest

from serve_app.cascade.routing.walk import NextModelPolicy, Tables, always, best_answer, walk
from tests.cascade.routing.worlds import fixed


def test_without_post_hoc_information_cascade_routing_is_routing():
    rng = np.random.default_rng(1)
    tables = fixed(rng.random((300, 4)), rng.random((300, 4)))
    for price in (0.0, 0.2, 0.7, 2.0, 10.0):
        for spread in (0.0, 1.0):
            found = walk(tables, NextModelPolicy(price, spread=spread))
            expected = walk(tables, NextModelPolicy(price, form="single", spread=0.0))
            assert found.called.tolist() == expected.called.tolist()
            assert found.cost_usd == pytest.approx(expected.cost_usd)


def tiny() -> Tables:
    """Two models, two queries alike beforehand; the weak one's answer then shows whether it is right."""
    before = np.array([[0.5, 0.9], [0.5, 0.9]])
    after_weak = np.array([[1.0, 1.0], [0.0, 0.8]])
    after_strong = np.array([[0.55, 1.0], [0.4, 0.8]])
    quality = np.stack([before, after_weak, after_strong, np.array([[1.0, 1.0], [0.0, 0.8]])])
    move = np.zeros((4, 2, 2))
    move[0] = np.diag([1.0, 0.3])
    move[1] = np.diag([0.0, 0.3])
    cost = np.array([[1.0, 10.0], [1.0, 10.0]])
    return Tables(quality, np.stack([cost] * 4), move, np.array([[1.0, 1.0], [0.0, 1.0]]), cost)


def test_the_strong_model_is_asked_where_the_weak_answer_turned_out_wrong():
    found = walk(tiny(), NextModelPolicy(0.02))
    assert found.called.tolist() == [0b01, 0b11]
    assert found.answer.tolist() == [0, 1]
    assert found.quality.tolist() == [1.0, 1.0]
    assert found.cost_usd.tolist() == [1.0, 11.0]


def test_no_policy_of_the_tiny_world_is_better_at_its_cost():
    """Brute force: first model, and whether to go on after the weak answer looked right or wrong."""
    tables = tiny()
    points = []
    for first in (0, 1):
        for on_right in (False, True):
            for on_wrong in (False, True):
                quality = cost = 0.0
                for row, more in enumerate((on_right, on_wrong)):
                    second = more and first == 0
                    answer = 1 if first == 1 or second else 0
                    quality += tables.ok[row, answer] / 2
                    cost += (tables.cost_usd[row, first] + (10.0 if second else 0.0)) / 2
                points.append((quality, cost))
    for price in (0.0, 0.02, 0.05, 0.5):
        found = walk(tables, NextModelPolicy(price))
        assert found.quality.mean() >= max(q for q, c in points if c <= found.cost_usd.mean() + 1e-12)


def test_prices_of_later_decisions():
    assert walk(tiny(), NextModelPolicy(0.02, later=np.inf)).called.tolist() == [0b01, 0b01]
    assert walk(tiny(), NextModelPolicy(0.02, later=0.0)).called.tolist() == [0b11, 0b11]


def test_a_model_alone_is_asked_whatever_the_query():
    tables = fixed(np.random.default_rng(2).random((50, 3)), np.ones((50, 3)))
    for m in range(3):
        found = walk(tables, always(m))
        assert set(found.called.tolist()) == {1 << m}
        assert found.quality.tolist() == tables.ok[:, m].tolist()


def test_the_answer_taken_is_the_best_of_those_that_were_asked():
    quality = np.array([[0.2, 0.4, 0.9], [0.2, 0.4, 0.1], [0.5, 0.4, 0.9]])
    before = np.array([[0.3, 0.2, 0.9]] * 3)
    assert best_answer(np.array([0b011, 0b100, 0b011]), quality, before, 0.0).tolist() == [1, 2, 0]


def test_another_answer_than_the_strongest_models_must_look_better_by_the_margin():
    before = np.array([[0.6, 0.5, 0.9]] * 4)
    quality = np.array([[0.7, 0.75, 0.0], [0.7, 0.81, 0.0], [0.5, 0.1, 0.55], [0.3, 0.9, 0.75]])
    called = np.array([0b011, 0b011, 0b101, 0b110])
    assert best_answer(called, quality, before, 0.1).tolist() == [0, 1, 2, 1]
    assert best_answer(called, quality, before, 1.0).tolist() == [0, 0, 2, 2]


def test_every_walk_asks_somebody_and_ends():
    rng = np.random.default_rng(4)
    quality = rng.random((8, 40, 3))
    cost = rng.random((40, 3))
    move = 0.5 * rng.standard_normal((8, 3, 3))
    tables = Tables(quality, np.stack([cost] * 8), move, quality[7], cost)
    for form in ("any", "prefix", "single"):
        for price in (0.0, 1.0, 100.0):
            found = walk(tables, NextModelPolicy(price, form=form))
            assert (found.called > 0).all()
            assert found.cost_usd == pytest.approx(
                [sum(c for m, c in enumerate(row) if s >> m & 1) for s, row in zip(found.called, cost, strict=True)]
            )
