import numpy as np
import pytest

from serve_app.cascade.routing.mixing import LATER, MARGIN, SPREAD, choose_shape, shapes
from serve_app.cascade.routing.walk import Tables, best_answer


def pair(n: int, seed: int, before: float, after: float) -> Tables:
    """A weak and a strong model, their estimates off by normal noise of `before` and `after` an answer."""
    rng = np.random.default_rng(seed)
    true = np.column_stack([rng.beta(2, 1.5, n), np.full(n, 0.9)])
    ok = (rng.random((n, 2)) < true).astype(float)

    def told(noise):
        return np.clip(true + noise * rng.standard_normal((n, 2)), 0.01, 0.99)

    first, then = told(before), told(after)
    quality = np.stack([first, then, then, then])
    cost = np.tile([1.0, 5.0], (n, 1))
    return Tables(quality, np.stack([cost] * 4), np.zeros((4, 2, 2)), ok, cost)


def test_the_usual_shape_is_the_first_and_each_is_tried_once():
    for form in ("any", "prefix"):
        first, *others = shapes(form)
        assert (first.spread, first.later, first.margin) == (SPREAD, LATER, MARGIN)
        assert len({first, *others}) == 1 + len(others) == 9
    assert len(shapes("single")) == 1


def test_where_prompts_mislead_the_order_of_the_cascade_is_kept():
    assert choose_shape(pair(400, 0, before=2.0, after=0.02), "any").shape.form == "prefix"
    assert choose_shape(pair(400, 0, before=2.0, after=0.02), "single").shape.form == "single"


def test_where_prompts_tell_as_much_as_answers_nobody_is_asked_twice():
    found = choose_shape(pair(400, 1, before=0.02, after=0.02), "any")
    cascade = choose_shape(pair(400, 1, before=0.02, after=0.02), "prefix")
    assert found.shape.form != "prefix"
    assert found.area > cascade.area + 0.01


@pytest.mark.slow
def test_another_shape_needs_more_than_luck():
    """Shapes do differ on 60 rows, none for sure."""
    for seed in range(3):
        tables = pair(60, seed, before=0.1, after=0.1)
        assert choose_shape(tables, "prefix").shape == shapes("prefix")[0]


def test_a_shape_that_is_surely_better_is_taken():
    """The usual spread asks further where estimates may move most; those who gain are those that move little."""
    n = 400
    gains = np.arange(n) % 2 == 0
    ok = np.column_stack([~gains, np.ones(n)]).astype(float)
    weak, strong = np.where(gains, 0.95, 0.6), np.where(gains, 0.95, 0.5)
    before = np.tile([0.3, 0.5], (n, 1))
    then = np.column_stack([weak, np.full(n, 0.99)])
    quality = np.stack([before, np.column_stack([weak, strong]), before, then])
    move = np.zeros((4, 2, 2))
    move[1] = np.diag([0.0, 1.0])
    tables = Tables(quality, np.stack([np.tile([1.0, 3.0], (n, 1))] * 4), move, ok, np.tile([1.0, 3.0], (n, 1)))
    assert choose_shape(tables, "prefix").shape.spread == 0.25


def test_the_margin_saves_quality_where_answers_are_hard_to_compare():
    tables = pair(4_000, 2, before=0.01, after=0.2)
    called, rows = np.full(4_000, 0b11), np.arange(4_000)
    quality = [
        tables.ok[rows, best_answer(called, tables.quality[3], np.tile([0.6, 0.9], (4_000, 1)), margin)].mean()
        for margin in (0.0, MARGIN)
    ]
    assert quality[1] > quality[0] + 0.003
