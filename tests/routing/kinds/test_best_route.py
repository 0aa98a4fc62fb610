import json
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.arrays import Floats
from serve_app.data.dataset import Dataset
from serve_app.errors import ConfigError
from serve_app.learning.encoder import load_encoder
from serve_app.routing.kinds.best_route import BestRouteRouter, SampledPool, best_of, cheapest, match_rate
from serve_app.types import Message, Price, Query
from tests.routing.kinds.test_estimator import chances

PRICES = {"tiny": Price(0.1, 0.1), "small": Price(1.0, 1.0), "large": Price(20.0, 20.0)}
ROWS = st.lists(st.sampled_from([0.0, 0.3, 0.5, 1.0]), min_size=1, max_size=6)


@given(ROWS, st.data())
def test_best_of_is_the_mean_maximum_over_all_draws(row: list[float], data: st.DataObject) -> None:
    n = data.draw(st.integers(1, len(row)))
    expected = np.mean([max(draw) for draw in combinations(row, n)])
    assert best_of(np.array([row]), n)[0] == pytest.approx(expected)


@given(ROWS, ROWS, st.sampled_from([0.0, 0.25]), st.data())
def test_match_rate_counts_all_draws_and_all_references(
    row: list[float], reference: list[float], margin: float, data: st.DataObject
) -> None:
    n = data.draw(st.integers(1, len(row)))
    expected = np.mean([max(draw) >= r - margin for draw in combinations(row, n) for r in reference])
    assert match_rate(np.array([row]), np.array([reference]), n, margin)[0] == pytest.approx(expected)


@pytest.mark.parametrize("n", [0, 4])
def test_more_answers_than_recorded_are_refused(n: int) -> None:
    with pytest.raises(ValueError, match="between 1"):
        best_of(np.zeros((2, 3)), n)
    with pytest.raises(ValueError, match="between 1"):
        match_rate(np.zeros((2, 3)), np.zeros((2, 3)), n)


def pair(n: int, seed: int) -> Dataset:
    data, _ = chances(n, seed, samples=4)
    return replace(data, pools={name: data.pools[name] for name in ("small", "large")})


@pytest.fixture(scope="module")
def data() -> Dataset:
    return pair(500, seed=1)


@pytest.fixture(scope="module")
def fitted(data: Dataset) -> BestRouteRouter:
    return BestRouteRouter(samples=3).fit(data)


@pytest.mark.slow
def test_there_is_a_candidate_for_each_number_of_answers(fitted: BestRouteRouter, data: Dataset) -> None:
    assert [str(c) for c in fitted.candidates_] == ["smallx1", "smallx2", "smallx3"]
    assert len(BestRouteRouter(samples=9).fit(data.take(range(60))).candidates_) == 4  # as many as were sampled


@pytest.mark.slow
def test_more_answers_are_never_less_good(fitted: BestRouteRouter, data: Dataset) -> None:
    good = fitted.good_enough(data.queries)
    assert good.shape == (500, 3) and (np.diff(good, axis=1) >= 0).all()
    assert ((good >= 0) & (good <= 1)).all() and (good[:, 2] > good[:, 0] + 0.05).any()


def test_a_prompt_is_paid_once_and_every_answer(fitted: BestRouteRouter, data: Dataset) -> None:
    cost = fitted.cost_usd(data.queries[:5], {"small": Price(1.0, 0.0), "large": Price(20.0, 0.0)})
    np.testing.assert_allclose(cost[:, 0], cost[:, 2])
    cost = fitted.cost_usd(data.queries[:5], {"small": Price(0.0, 1.0), "large": Price(0.0, 20.0)})
    np.testing.assert_allclose(cost[:, 2], 3 * cost[:, 0])
    np.testing.assert_allclose(cost[:, 3], 20 * cost[:, 0], rtol=1e-6)  # both pools write as much here


def test_the_estimates_are_what_the_choice_is_made_of(fitted: BestRouteRouter, data: Dataset) -> None:
    queries = data.queries[:9]
    estimates = fitted.sampled_estimates(queries)
    assert [str(one.candidate) for one in estimates[0]] == ["smallx1", "smallx2", "smallx3", "largex1"]
    good = np.array([[one.good_enough for one in row] for row in estimates])
    np.testing.assert_array_equal(good[:, :3], fitted.good_enough(queries))
    assert (good[:, 3] == 1.0).all()
    np.testing.assert_allclose(1.0 - good[:, 0], fitted.score(queries))
    cost = np.array([[one.cost_usd(PRICES[one.candidate.pool]) for one in row] for row in estimates])
    np.testing.assert_array_equal(cost, fitted.cost_usd(queries, PRICES))


def test_the_cheapest_good_enough_is_taken_else_the_reference() -> None:
    good = np.array([[0.9, 0.95], [0.6, 0.9], [0.1, 0.2], [0.9, 0.9]])
    cost = np.array([[1.0, 2.0, 5.0], [1.0, 2.0, 5.0], [1.0, 2.0, 5.0], [9.0, 8.0, 5.0]])
    assert cheapest(good, cost, 0.8).tolist() == [0, 1, 2, 2]
    assert cheapest(np.array([[0.8, 0.9]]), np.array([[1.0, 1.0, 1.0]]), 0.8).tolist() == [
        2
    ]  # for the same price the best


def test_thresholds_move_the_choice_from_one_end_to_the_other(fitted: BestRouteRouter, data: Dataset) -> None:
    queries = data.queries[:100]
    assert set(fitted.choose(queries, 0.0, PRICES)) == {SampledPool("small", 1)}
    assert set(fitted.choose(queries, 1.0, PRICES)) == {SampledPool("large")}
    assert len(set(fitted.choose(queries, 0.7, PRICES))) > 2


def recorded(router: BestRouteRouter, data: Dataset) -> tuple[Floats, Floats]:
    """Mean recorded (quality, cost in USD) of the choices at 21 thresholds, and of each candidate alone."""
    every = (*router.candidates_, SampledPool("large"))
    tokens = {c: data.pools[c.pool].mean_tokens() for c in every}
    quality = np.stack([best_of(data.pools[c.pool].quality, c.samples) for c in every], axis=1)
    price = [PRICES[c.pool].output_usd_per_million / 1e6 for c in every]
    cost = np.stack([(tokens[c][:, 0] + c.samples * tokens[c][:, 1]) * p for c, p in zip(every, price, strict=True)], 1)
    good, expected, rows = router.good_enough(data.queries), router.cost_usd(data.queries, PRICES), np.arange(len(data))
    chosen = [cheapest(good, expected, threshold) for threshold in np.linspace(0, 1, 21)]
    points = np.array([(quality[rows, c].mean(), cost[rows, c].mean()) for c in chosen])
    return points, np.stack([quality.mean(0), cost.mean(0)], axis=1)


@pytest.mark.slow
def test_best_of_n_gives_more_quality_for_the_cost_than_one_answer_can(fitted: BestRouteRouter) -> None:
    unseen = pair(400, seed=2)
    many, alone = recorded(fitted, unseen)
    few, _ = recorded(BestRouteRouter(samples=1).fit(pair(500, seed=1)), unseen)
    budget = 2 * alone[2, 1]
    assert many[many[:, 1] <= budget, 0].max() > few[few[:, 1] <= budget, 0].max() + 0.02
    assert many[-1] == pytest.approx(alone[-1])  # nothing is good enough for certain: the reference answers all


@pytest.mark.slow
def test_a_third_pool_brings_candidates_of_its_own() -> None:
    data = chances(120, seed=3, samples=2)[0]
    router = BestRouteRouter(samples=2).fit(data)
    assert {c.pool for c in router.candidates_} == {"tiny", "small"}
    assert any(c.pool == "tiny" for c in router.choose(data.queries, 0.6, PRICES))


def test_the_score_is_the_win_rate_over_one_weak_answer(fitted: BestRouteRouter, data: Dataset) -> None:
    np.testing.assert_allclose(fitted.score(data.queries), 1 - fitted.good_enough(data.queries)[:, 0], atol=1e-12)


def test_an_explanation_adds_up_to_the_score(fitted: BestRouteRouter, data: Dataset) -> None:
    score = fitted.score(data.queries[:1])[0]
    assert sum(fitted.explain(data.queries[0]).values()) == pytest.approx(np.log(score / (1 - score)))


def test_a_follow_up_is_scored_with_its_conversation(fitted: BestRouteRouter) -> None:
    follow = Message("user", "and now the same with 345 + 678?")
    before = (Message("user", "tell me a story of a fox"), Message("assistant", "A fox lived in a wood."))
    alone, after = fitted.score([Query((follow,)), Query((*before, follow))])
    assert alone != after


def test_a_system_prompt_does_not_drown_the_question(fitted: BestRouteRouter) -> None:
    system = Message("system", "You are a careful assistant. Answer briefly and say when you do not know. " * 40)
    scores = fitted.score([Query((system, Message("user", t))) for t in ("what is 3 + 4?", "what is 3452 + 6781?")])
    assert scores[1] > scores[0] + 0.1


def test_bad_data_and_parameters_are_refused(data: Dataset) -> None:
    with pytest.raises(ConfigError, match="samples"):
        BestRouteRouter(samples=0).fit(data)
    with pytest.raises(ConfigError, match="no pool 'large'"):
        BestRouteRouter().fit(replace(data, pools={"small": data.weak}))
    quality = np.full_like(data.weak.quality, np.nan)
    with pytest.raises(ConfigError, match="'0' of pool small"):
        BestRouteRouter().fit(replace(data, pools={**data.pools, "small": replace(data.weak, quality=quality)}))


def test_another_encoder_is_refused(fitted: BestRouteRouter, tmp_path: Path) -> None:
    fitted.save(tmp_path)
    path = tmp_path / "router.json"
    body = json.loads(path.read_text())
    assert body["encoder_digest"] == load_encoder().digest
    path.write_text(json.dumps({**body, "encoder_digest": "0" * 16}))
    with pytest.raises(ConfigError, match=r"router\.json: .*'minilm' .*0000"):
        BestRouteRouter.load(tmp_path)


def test_a_round_trip_keeps_the_choice(fitted: BestRouteRouter, data: Dataset, tmp_path: Path) -> None:
    fitted.save(tmp_path)
    again = BestRouteRouter.load(tmp_path)
    assert again.choose(data.queries[:50], 0.7, PRICES) == fitted.choose(data.queries[:50], 0.7, PRICES)
