"""A Gateway keeps the share while the Learner says nothing."""

import numpy as np
import pytest

from serve_app.streams.online.base import Episode
from serve_app.streams.online.budget import HeldPrice, LlmBudget
from serve_app.streams.online.learner import OnlineCascade
from serve_app.streams.online.policy import policy_from
from tests.streams.online.conftest import drive, make_queries, make_spec

ASKED, ANSWERED = Episode(None, None, (), (), "deferred", 0), Episode(0, 1, (), (), "confident", 0)


def _share(policy, texts, told, seed=0):
    rng, asked = np.random.default_rng(seed), []
    for text in texts:
        episode = policy.act(text, rng.random(2))
        asked.append(episode.level is None)
        if told:
            policy.observe(episode)
    return np.mean(asked[len(asked) // 4 :])


@pytest.fixture(scope="module")
def learned():
    learner = OnlineCascade(make_spec(llm_share=0.3, horizon=20_000))
    drive(learner, make_queries(600, 0))
    return learner


@pytest.mark.slow
@pytest.mark.parametrize("wrong_price", [0.0, 0.9])
def test_a_policy_whose_price_is_wrong_comes_to_the_share_by_itself(learned, queries, wrong_price):
    arrays = dict(learned.policy().arrays())
    arrays["terms"] = arrays["terms"].copy()
    arrays["terms"][0] = wrong_price
    arrays["act"] = np.array([0.0, 0.0])
    # letters that no level has learned: some are more surprising than others
    rng = np.random.default_rng(1)
    words = [w for text, _ in queries(200, 5) for w in text.split()]
    texts = [" ".join(rng.choice(words, size=int(rng.integers(1, 9)))) for _ in range(1000)]
    rate = arrays["terms"][1]
    held = _share(policy_from(learned.spec, arrays), texts, told=True)
    left = _share(policy_from(learned.spec, arrays), texts, told=False)
    assert held == pytest.approx(rate, abs=0.05)
    assert abs(left - rate) > 0.1


def test_its_steps_are_those_of_the_learners_budget():
    budget = LlmBudget(0.2, 10_000, 0.01, price=0.4)
    holding = HeldPrice(0.4, 0.2, 0.01, 1.0, (0.0, 1.0))
    for asked in np.random.default_rng(0).random(50) < 0.5:
        budget.observe(bool(asked))
        holding.observe(ASKED if asked else ANSWERED)
    assert holding.thresholds[0] == 0.5
    assert holding.thresholds[1] == pytest.approx((1 + budget.price) / 2, abs=2e-3)


def test_a_warm_up_moves_nothing_and_the_price_has_bounds():
    holding = HeldPrice(0.5, 0.2, 0.4, 1.0, (1.0,))
    holding.observe(Episode(None, None, (), (), "warm-up", 0))
    assert holding.thresholds == (0.75,)
    for _ in range(5):
        holding.observe(ASKED)
    assert holding.thresholds == (1.0,)
    for _ in range(50):
        holding.observe(ANSWERED)
    assert holding.thresholds == (0.5,)


def test_the_rate_that_is_told_is_never_the_horizons_end():
    budget = LlmBudget(0.2, 100, 0.01)
    for _ in range(99):
        budget.observe(False)
    assert (budget.rate, budget.steady_rate) == (1.0, 0.4)
    for _ in range(200):
        budget.observe(True)
    assert (budget.rate, budget.steady_rate) == (0.0, 0.1)


def test_a_fixed_price_stays(spec, queries, driven):
    learner = OnlineCascade(spec(llm_share=None, mu=3e-4))
    driven(learner, queries(300, 0))
    policy = learner.policy()
    before = [policy.act(text, (0.9, 0.9)) for text, _ in queries(20, 1)]
    for _ in range(100):
        policy.observe(ASKED)
    assert [policy.act(text, (0.9, 0.9)) for text, _ in queries(20, 1)] == before
    assert "terms" not in policy.arrays()


def test_a_warm_up_ends_with_the_calls_that_were_wanted(spec, queries, driven):
    learner = OnlineCascade(spec(horizon=600))
    policy = policy_from(learner.spec, learner.policy().arrays())
    why = []
    for text, _ in queries(40, 0):
        episode = policy.act(text, (0.9, 0.9))
        policy.observe(episode)
        why.append(episode.why)
    assert learner.warm_up_calls == 12  # a tenth of 0.2 * 600
    assert why.count("warm-up") == 12
    assert set(why[12:]) <= {"deferred", "confident"}
    driven(learner, queries(5, 1))
    assert learner.warm_up_calls == 7
    assert OnlineCascade(spec(fixes={"front_load": False})).warm_up_calls == 80
