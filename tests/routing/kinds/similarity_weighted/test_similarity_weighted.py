"""sw_ranking against RouteLLM's way of computing it, its tiers, and what its explanation adds up to."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn.linear_model import LogisticRegression

from serve_app.data.dataset import Dataset
from serve_app.data.preferences import Preferences
from serve_app.errors import ConfigError
from serve_app.learning.encoder import load_encoder
from serve_app.routing.kinds.similarity_weighted import battle_index
from serve_app.routing.kinds.similarity_weighted.router import SimilarityWeightedRouter
from serve_app.types import Query
from tests.data.samples import sums


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return sums(150, seed=1)


def arena(dataset: Dataset, models: tuple[str, ...], seed: int) -> Preferences:
    """Battles on the dataset's queries; strength rises with the position in `models`, most on the hard ones."""
    rng = np.random.default_rng(seed)
    n, hard = len(dataset), dataset.strong_win_rate()
    a = rng.integers(0, len(models), n)
    b = (a + rng.integers(1, len(models), n)) % len(models)
    chance = 1 / (1 + np.exp((b - a) * (0.2 + 0.5 * hard)))
    won = np.where(rng.random(n) < 0.1, 0.5, (rng.random(n) < chance).astype(float))
    return Preferences(dataset.queries, tuple(models[i] for i in a), tuple(models[i] for i in b), won)


def as_released(battles: Preferences, tier: dict[str, int], query: Query, pair: tuple[str, str]) -> float:
    """A row for each battle, twice; weights from all cosines; Elo scores at scale 400, base 10; the strong win rate."""
    encoder = load_encoder()
    stored = encoder.embed([q.text for q in battles.queries]).astype(np.float16).astype(np.float64)
    similar = stored @ encoder.embed([query.text])[0] / np.linalg.norm(stored, axis=1)
    weight = 10 * 10 ** (similar / similar.max())
    a, b = (np.array([tier[n] for n in column]) for column in (battles.model_a, battles.model_b))
    kept = a != b
    n = int(kept.sum())
    rows = np.zeros((n, max(tier.values()) + 1))
    rows[np.arange(n), a[kept]], rows[np.arange(n), b[kept]] = np.log(10), -np.log(10)
    won = battles.outcome[kept]
    first, second = (won >= 0.5).astype(int), (won > 0.5).astype(int)  # a tie is a win and a loss
    model = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-12, max_iter=100_000)
    model.fit(np.vstack([rows, rows]), np.concatenate([first, second]), sample_weight=np.tile(weight[kept], 2))
    elo = 400 * model.coef_[0] + 1000
    return float(1 - 1 / (1 + 10 ** ((elo[tier[pair[1]]] - elo[tier[pair[0]]]) / 400)))


@pytest.mark.parametrize("models", [("m-small", "m-large"), (*"abcdefgh", "m-small", *"ijklmnop", "m-large")])
def test_scores_are_those_of_the_released_way(dataset: Dataset, models: tuple[str, ...]) -> None:
    battles = arena(dataset, models, seed=2)
    unscored = {name: replace(p, quality=p.quality * np.nan) for name, p in dataset.pools.items()}
    router = SimilarityWeightedRouter(tiers=6).fit(replace(dataset, pools=unscored, preferences=battles))
    assert router.table_ is not None and router.table_.tier_count == min(6, len(models))
    queries = sums(12, seed=3).queries
    tier = dict(router.table_.tier_of)
    expected = [as_released(battles, tier, q, ("m-small", "m-large")) for q in queries]
    assert_allclose(router.score(queries), expected, atol=2e-4)


def test_explanation_adds_up_and_names_the_heaviest(dataset: Dataset) -> None:
    router = SimilarityWeightedRouter(keep_texts=True).fit(dataset)
    query = dataset.queries[4]
    terms = router.explain(query)
    score = router.score([query])[0]
    assert_allclose(sum(terms.values()), np.log(score / (1 - score)), atol=1e-9)
    assert len(terms) == 10 and {"bias", "other battles"} < set(terms)
    assert any(repr(query.text) in name for name in terms)
    hard = dataset.strong_win_rate() == 1.0
    named = {name: pull for name, pull in terms.items() if " in battle " in name}
    for name, pull in named.items():
        row = int(name.split(" in battle ")[1].split(",")[0])
        assert (pull > 0) == bool(hard[row])  # a win pulls up, a tie down where the rate is above a half
        assert ("beat" in name) == bool(hard[row])


def test_a_battle_pulls_as_much_as_one_more_of_it_would(dataset: Dataset) -> None:
    battles = arena(dataset, ("m-small", "m-large", "c", "d"), seed=5)
    unscored = {name: replace(p, quality=p.quality * np.nan) for name, p in dataset.pools.items()}
    router = SimilarityWeightedRouter().fit(replace(dataset, pools=unscored, preferences=battles))
    query = dataset.queries[0]
    named = {n: pull for n, pull in router.explain(query).items() if " in battle " in n}
    encoder, table, index = router._fitted("testing")
    near = index.weigh(encoder.embed([query.text])[0])
    before = router._fit_one(table, near.totals)[1]
    for name, pull in named.items():
        row = int(name.split(" in battle ")[1])
        more = near.totals.copy()
        more[table.cell[row]] += near.weights[row] * 1e-3
        assert_allclose((router._fit_one(table, more)[1] - before) * 1e3, pull, rtol=0.02, atol=1e-6)


def test_texts_are_kept_only_where_asked_for(dataset: Dataset, tmp_path: Path) -> None:
    SimilarityWeightedRouter().fit(dataset).save(tmp_path)
    assert dataset.queries[0].text not in (tmp_path / "router.json").read_text("utf-8")
    SimilarityWeightedRouter(keep_texts=True).fit(dataset).save(tmp_path)
    assert dataset.queries[0].text in (tmp_path / "router.json").read_text("utf-8")


def test_ties_as_half_leave_the_rate_above_a_half_where_the_strong_never_loses(dataset: Dataset) -> None:
    half = SimilarityWeightedRouter().fit(dataset).score(dataset.queries)
    weak = SimilarityWeightedRouter(ties="weak").fit(dataset).score(dataset.queries)
    assert half.min() > 0.5 and weak.min() < 0.5
    assert np.corrcoef(half, weak)[0, 1] > 0.99


def test_many_battles_are_grouped_and_saved_so(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(battle_index, "CLUSTERS", 8)
    monkeypatch.setattr(battle_index, "NEAR", 60)
    exact = SimilarityWeightedRouter().fit(dataset)
    grouped = SimilarityWeightedRouter(exact=100).fit(dataset)
    queries = sums(40, seed=6).queries
    assert_allclose(grouped.score(queries), exact.score(queries), atol=0.005)
    grouped.save(tmp_path)
    assert SimilarityWeightedRouter.load(tmp_path).score(queries).tolist() == grouped.score(queries).tolist()


def test_odd_parameters_are_refused() -> None:
    with pytest.raises(ConfigError, match="tiers"):
        SimilarityWeightedRouter(tiers=1)
    with pytest.raises(ConfigError, match=r"ties .*'win'"):
        SimilarityWeightedRouter(ties="win")  # type: ignore[arg-type]
    made = SimilarityWeightedRouter(tiers=4, ties="drop", margin=0.1, exact=5, keep_texts=True, seed=2)
    assert SimilarityWeightedRouter(**made.params).params == made.params
