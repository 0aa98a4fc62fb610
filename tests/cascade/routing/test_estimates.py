import numpy as np
import pytest

from serve_app.cascade.routing.estimates import (
    Observations,
    agreement,
    by_size,
    columns_of,
    directions,
    evidence,
    fit_estimates,
    fit_prompt_head,
    members,
    observations_of,
    parents,
)
from serve_app.cascade.routing.fitting import crossfitted, estimate_all
from serve_app.cascade.routing.walk import fit_moves
from serve_app.cascade.signals.calibration import fit_curve
from serve_app.learning.logistic import folds_of
from tests.cascade.routing.worlds import made_up


@pytest.fixture(scope="module")
def world():
    return made_up(1200)


@pytest.fixture(scope="module")
def fitted(world):
    train = world.split("train")
    return fit_estimates(observations_of(train), train.ok, train.ok.mean(1))


@pytest.fixture(scope="module")
def told(world, fitted):
    """Quality and cost of the test part in every state."""
    return estimate_all(fitted, observations_of(world.split("test")))


def loss(p, y):
    return float(-np.mean(y * np.log(p) + (1 - y) * np.log(1 - p)))


def test_each_answer_makes_estimates_better(world, told):
    ok = world.split("test").ok
    quality, _ = told
    for m in range(3):
        own, others = 1 << m, 0b111 & ~(1 << m)
        assert loss(quality[own][:, m], ok[:, m]) < loss(quality[0][:, m], ok[:, m])
        assert loss(quality[0b111][:, m], ok[:, m]) < loss(quality[own][:, m], ok[:, m])
        assert loss(quality[others][:, m], ok[:, m]) < loss(quality[0][:, m], ok[:, m])


def test_estimates_are_calibrated_on_rows_they_did_not_see(world, told):
    ok = world.split("test").ok
    quality, _ = told
    for called in range(8):
        assert np.abs(quality[called].mean(0) - ok.mean(0)).max() < 0.06
        for m in range(3):
            high = quality[called][:, m] >= np.median(quality[called][:, m])
            assert abs(quality[called][high, m].mean() - ok[high, m].mean()) < 0.08


def test_costs_follow_the_prompt_and_become_known(world, told):
    test = world.split("test")
    _, cost = told
    error = np.abs(cost[0] - test.cost_usd) / test.cost_usd
    assert np.median(error) < 0.05
    assert (cost[0b111] == test.cost_usd).all()
    assert (cost[0b010][:, 1] == test.cost_usd[:, 1]).all()
    assert (cost[0] > 0).all()


def test_answers_that_agree_are_believed(world, told):
    quality, _ = told
    agree = observations_of(world.split("test")).agree[:, 0, 1] == 1
    gained = quality[0b011][:, 0] - quality[0b001][:, 0]
    assert gained[agree].mean() > 0.02
    assert gained[~agree].mean() < -0.02


def test_estimates_do_not_depend_on_models_that_were_not_asked(world, fitted):
    seen = observations_of(world.split("test"))
    blind = type(seen)(
        np.where([True, False, False], seen.confidence, np.nan),
        np.broadcast_to(np.eye(3), seen.agree.shape),
        np.where([True, False, False], seen.cost_usd, 0.0),
        seen.characters,
    )
    for of in (fitted.evidence,):
        assert fitted.qualities(1, of(blind)) == pytest.approx(fitted.qualities(1, of(seen)))
    assert fitted.costs(1, blind) == pytest.approx(fitted.costs(1, seen))


def test_what_an_answer_shows_of_a_hard_prompt_does_not_count_twice():
    """Of a prompt one can half see how hard it is, of an answer wholly: then the prompt has nothing to add."""
    worse = []
    for seed in range(5):
        rng = np.random.default_rng(seed)
        hard = rng.standard_normal(900)
        odds = np.column_stack([0.5 - 1.5 * hard, 2.0 - 1.5 * hard])
        ok = (rng.random(odds.shape) < 1 / (1 + np.exp(-odds))).astype(float)
        looks = -(hard + rng.standard_normal(900))[:, None]
        alone = np.broadcast_to(np.eye(2), (900, 2, 2))
        losses = []
        for vectors in (looks, None):
            seen = Observations(-np.log1p(np.exp(-odds)), alone, np.ones(odds.shape), np.full(900, 50.0), vectors)
            train, test = np.arange(300), np.arange(300, 900)
            fitted = fit_estimates(seen.take(train), ok[train], ok[train].mean(1))
            quality, _ = estimate_all(fitted, seen.take(test))
            losses.append(loss(quality[0b01][:, 0], ok[test, 0]) + loss(quality[0b10][:, 1], ok[test, 1]))
        worse.append(losses[0] - losses[1])
    assert np.mean(worse) < 0.01


def test_moves_are_of_models_to_come_and_shrink_where_nothing_is_told(world):
    train = world.split("train")
    tables = crossfitted(observations_of(train), train.ok, train.ok.mean(1), folds_of(train.prompts, 5, 0))
    variance = np.einsum("sij,sij->si", tables.move, tables.move)
    assert (variance[0] > 0.01).all()
    assert variance[0b001][0] == 0.0
    assert (variance[0b111] == 0.0).all()
    still = np.stack([tables.quality[0]] * 8)
    assert not fit_moves(still).any()


def test_folds_keep_equal_prompts_together():
    folds = folds_of(("a", "b", "a", "c") * 5, 10, 0)
    assert len(set(folds[::2].tolist())) == 1


def test_confidence_rises_with_the_signal_and_bears_what_signals_are():
    rng = np.random.default_rng(0)
    raw = -rng.exponential(1.0, 400)
    raw[:150] = 0.0  # as sure as can be
    ok = (rng.random(400) < np.exp(raw)).astype(float)
    curve = fit_curve(np.append(raw, [np.nan, np.nan]), np.append(ok, [0.0, 0.0]))
    found = curve(np.array([np.nan, -np.inf, -5.0, -1.0, -0.1, 0.0, np.inf]))
    assert found[0] == found[1]
    assert (np.diff(found[1:]) >= 0).all()
    assert found[-2] == found[-1]


@pytest.mark.parametrize("scale", [lambda p: p, lambda p: 40 * p - 10, np.log])
def test_any_scale_of_signal_will_do(scale):
    rng = np.random.default_rng(1)
    p = rng.uniform(0.02, 0.98, 600)
    ok = (rng.random(600) < p).astype(float)
    z = fit_curve(scale(p), ok)(scale(p))
    assert np.corrcoef(z, np.log(p / (1 - p)))[0, 1] > 0.95


def test_without_any_signal_confidence_says_nothing():
    curve = fit_curve(np.full(30, np.nan), np.ones(30))
    assert curve(np.array([np.nan, 0.5])).tolist() == [0.0, 0.0]


def test_a_prompt_is_read_only_where_it_helps():
    rng = np.random.default_rng(2)
    vectors = rng.standard_normal((200, 5))
    noise = np.where(np.arange(200) % 2, 0.3, 0.7)
    head, left_out = fit_prompt_head(np.ones((200, 5)), noise)
    assert (len(head.weights), np.ptp(left_out)) == (0, 0.0)
    assert head.prior(None, 3).tolist() == [head.bias] * 3
    useful, _ = fit_prompt_head(vectors, vectors @ np.array([0.2, 0, 0, 0, 0]) + 0.1 * noise)
    assert len(useful.weights) == 5
    with pytest.raises(ValueError, match="sentence vector"):
        useful.prior(None, 1)


def test_answers_agree_once_normalised_and_empty_ones_with_none():
    assert agreement(["B.", "b", "", ""]).tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]


@pytest.mark.parametrize("models", [2, 3, 5])
def test_directions_use_no_column_of_a_model_that_was_not_asked(models):
    z = np.random.default_rng(0).standard_normal((4, models))
    agree = np.ones((4, models, models))
    rows = evidence(z, agree, np.zeros(4))
    assert rows.shape == (4, columns_of(models))
    for called in range(2**models):
        hidden = np.array([not called >> m & 1 for m in range(models)])
        other = evidence(np.where(hidden, 99.0, z), np.where(hidden[:, None] | hidden, 0.0, agree), np.zeros(4))
        for m in members(called, models):
            assert rows @ directions(called, m, models) == pytest.approx(other @ directions(called, m, models))


def test_sets_come_by_size_and_know_their_parents():
    assert by_size(2) == [0, 1, 2, 3]
    assert sorted(parents(0b101)) == [0b001, 0b100]
    assert list(parents(0b101, kept=2)) == [0b100]
