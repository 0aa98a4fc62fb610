""""""

import json
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import pytest

from serve_app.data.dataset import Dataset, PoolAnswers
from serve_app.errors import ConfigError
from serve_app.learning.encoder import load_encoder
from serve_app.routing.kinds.estimator import EstimatorRouter
from serve_app.types import Message, Price, Query
from tests.data.samples import sums

DATA = sums(300, seed=1)
Drawn = tuple[Dataset, dict[str, np.ndarray]]


def chances(n: int, seed: int, samples: int = 1) -> Drawn:
    """Sums whose true chance of a right answer falls with the digits, at another rate for each of three pools;
    answers that grow with them. Gives the chances too."""
    rng, draw = Random(seed), np.random.default_rng(seed)
    digits = [rng.randrange(1, 7) for _ in range(n)]
    texts = [f"what is {rng.randrange(10 ** (d - 1), 10**d)} + {rng.randrange(10 ** (d - 1), 10**d)}?" for d in digits]
    sizes = np.array(digits, dtype=float)
    truth = {p: 1 / (1 + np.exp(1.5 * (sizes - limit))) for p, limit in (("tiny", 1.5), ("small", 3.0), ("large", 5.5))}
    pools = {}
    for pool, chance in truth.items():
        quality = (draw.random((n, samples)) < chance[:, None]).astype(float)
        read = np.array([[5.0 + len(t) / 2] * samples for t in texts])
        written = np.repeat(sizes[:, None] * 3 + 1, samples, axis=1)
        texts_of = tuple(("a",) * samples for _ in range(n))
        pools[pool] = PoolAnswers(f"m-{pool}", texts_of, quality, np.zeros((n, samples)), read, written)
    queries = tuple(Query((Message("user", t),)) for t in texts)
    return Dataset(queries, pools, ("sums",) * n), truth


@pytest.fixture(scope="module")
def unseen() -> Drawn:
    return chances(500, seed=2)


@pytest.fixture(scope="module")
def fitted() -> EstimatorRouter:
    return EstimatorRouter().fit(chances(800, seed=1)[0])


@pytest.mark.slow
def test_an_estimate_has_a_column_for_every_pool(fitted: EstimatorRouter, unseen: Drawn) -> None:
    data, truth = unseen
    estimate = fitted.estimate(data.queries)
    assert estimate.pools == ("tiny", "small", "large") and estimate.quality.shape == (500, 3)
    for j, pool in enumerate(estimate.pools):
        assert np.abs(estimate.quality[:, j] - truth[pool]).mean() < 0.08
    assert (estimate.std > 0).all()
    assert fitted.estimate([]).quality.shape == (0, 3)


@pytest.mark.slow
def test_the_standard_errors_cover_the_mean_quality_of_like_queries(fitted: EstimatorRouter, unseen: Drawn) -> None:
    data, _ = unseen
    estimate = fitted.estimate(data.queries)
    inside = []
    for j, pool in enumerate(estimate.pools):
        seen = data.pools[pool].quality.mean(1)
        for part in np.array_split(np.argsort(estimate.quality[:, j]), 10):
            error = seen[part].mean() - estimate.quality[part, j].mean()
            sampling = seen[part].var() / len(part)
            inside.append(abs(error) <= 1.645 * np.sqrt(estimate.std[part, j].mean() ** 2 + sampling))
    assert np.mean(inside) >= 0.85


def test_a_stranger_is_less_certain_than_a_query_like_those_learned(fitted: EstimatorRouter) -> None:
    known = chances(1, seed=4)[0].queries[0]
    head = fitted.heads_["small"]
    assert fitted.features_ is not None
    near, far = (
        fitted.features_.matrices([q], load_encoder())["small"][0]
        for q in (known, Query((Message("user", "Why did the Hanseatic League decline? " * 5),)))
    )
    spread = [float(np.append(x, 1) @ head.covariance @ np.append(x, 1)) for x in (near, far)]
    assert spread[1] > spread[0]


def test_tokens_and_cost_follow_the_query(fitted: EstimatorRouter, unseen: Drawn) -> None:
    data, _ = unseen
    estimate = fitted.estimate(data.queries)
    tokens = data.pools["large"].mean_tokens()
    np.testing.assert_allclose(estimate.prompt_tokens[:, 2], tokens[:, 0], rtol=0.02)
    assert np.abs(estimate.completion_tokens[:, 2] / tokens[:, 1] - 1).mean() < 0.15
    cost = estimate.cost_usd({"tiny": Price(), "small": Price(1.0, 0.0), "large": Price(10.0, 30.0)})
    assert (cost[:, 0] == 0).all()
    np.testing.assert_allclose(cost[:, 1], estimate.prompt_tokens[:, 1] / 1e6)
    assert cost[0, 2] == pytest.approx(
        (10 * estimate.prompt_tokens[0, 2] + 30 * estimate.completion_tokens[0, 2]) / 1e6
    )


def test_the_score_is_a_calibrated_win_rate(fitted: EstimatorRouter, unseen: Drawn) -> None:
    data, truth = unseen
    wins = truth["large"] * (1 - truth["small"])
    assert np.abs(fitted.score(data.queries) - wins).mean() < 0.06


def test_an_explanation_adds_up_to_the_score(fitted: EstimatorRouter) -> None:
    for query in (*chances(3, seed=7)[0].queries, Query((Message("user", "hello"),))):
        score = fitted.score([query])[0]
        assert sum(fitted.explain(query).values()) == pytest.approx(np.log(score / (1 - score)), abs=5e-3)


@pytest.mark.slow
def test_quality_beyond_one_keeps_its_unit() -> None:
    data, truth = chances(300, seed=8)
    pools = {p: replace(a, quality=a.quality * 10 - 12) for p, a in data.pools.items()}
    estimate = EstimatorRouter().fit(replace(data, pools=pools)).estimate(data.queries)
    assert np.abs(estimate.quality[:, 1] - (truth["small"] * 10 - 12)).mean() < 0.8


def test_a_round_trip_keeps_the_estimate(fitted: EstimatorRouter, tmp_path: Path) -> None:
    fitted.save(tmp_path)
    again, queries = EstimatorRouter.load(tmp_path), chances(20, seed=9)[0].queries
    ours, theirs = fitted.estimate(queries), again.estimate(queries)
    for name in ("quality", "std", "prompt_tokens", "completion_tokens"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))


def test_the_pair_and_scores_are_needed() -> None:
    data = chances(50, seed=10)[0]
    with pytest.raises(ConfigError, match="no pool 'large'"):
        EstimatorRouter().fit(replace(data, pools={p: data.pools[p] for p in ("tiny", "small")}))
    quality = data.pools["tiny"].quality.copy()
    quality[7] = np.nan
    pools = {**data.pools, "tiny": replace(data.pools["tiny"], quality=quality)}
    with pytest.raises(ConfigError, match="'7' of pool tiny"):
        EstimatorRouter().fit(replace(data, pools=pools))


def test_a_follow_up_is_scored_with_its_conversation(fitted: EstimatorRouter) -> None:
    follow = Message("user", "and now the same with 345 + 678?")
    before = (Message("user", "tell me a story of a fox"), Message("assistant", "A fox lived in a wood."))
    alone, after = fitted.score([Query((follow,)), Query((*before, follow))])
    assert alone != after


def test_a_system_prompt_does_not_drown_the_question(fitted: EstimatorRouter) -> None:
    system = Message("system", "You are a careful assistant. Answer briefly and say when you do not know. " * 40)
    questions = ("what is 3 + 4?", "what is 3452 + 6781?")
    scores = fitted.score([Query((system, Message("user", t))) for t in questions])
    assert scores[1] > scores[0] + 0.1


def test_another_encoder_is_refused(tmp_path: Path) -> None:
    EstimatorRouter().fit(DATA).save(tmp_path)
    path = tmp_path / "router.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "encoder_digest": "0" * 16}))
    with pytest.raises(ConfigError, match=r"router\.json: .*'minilm' .*0000"):
        EstimatorRouter.load(tmp_path)
