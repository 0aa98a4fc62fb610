"""Sums by cell against RouteLLM's formula over all battles: the same where exact, close where grouped."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from serve_app.routing.kinds.similarity_weighted import battle_index
from serve_app.routing.kinds.similarity_weighted.battle_index import BattleIndex, clusters_of

DIMENSIONS = 48


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def topics(n: int, seed: int) -> np.ndarray:
    """Vectors around forty topics, some topics wider than others, all sharing a direction as sentence vectors do."""
    world = np.random.default_rng(99)
    centres = world.normal(size=(40, DIMENSIONS)) + 0.7 * world.normal(size=DIMENSIONS)
    width = world.uniform(0.3, 1.0, 40)
    rng = np.random.default_rng(seed)
    topic = rng.integers(0, 40, n)
    return unit(centres[topic] + width[topic, None] * rng.normal(size=(n, DIMENSIONS)))


def outcomes(vectors: np.ndarray, seed: int) -> np.ndarray:
    """0, 1 or 2, drawn by a direction of the space and by chance."""
    rng = np.random.default_rng(seed)
    chance = 1 / (1 + np.exp(-6 * vectors @ unit(np.random.default_rng(5).normal(size=(1, DIMENSIONS)))[0]))
    return np.where(rng.random(len(vectors)) < 0.15, 1, np.where(rng.random(len(vectors)) < chance, 2, 0))


def by_the_formula(vectors: np.ndarray, cells: np.ndarray, count: int, query: np.ndarray) -> np.ndarray:
    similar = vectors.astype(np.float64) @ query
    return np.bincount(cells, weights=10 * 10 ** (similar / similar.max()), minlength=count)


def test_few_battles_are_summed_as_the_formula_says() -> None:
    vectors = topics(300, seed=0)
    cells = outcomes(vectors, seed=0)
    index = BattleIndex(vectors, cells, 3, None)
    for query in topics(10, seed=1):
        near = index.weigh(query)
        assert_allclose(near.totals, by_the_formula(vectors, cells, 3, query), rtol=1e-5)
        assert sorted(near.rows.tolist()) == list(range(300)) and near.weights.max() == pytest.approx(100.0)


@pytest.fixture(scope="module")
def many() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """20,000 battles in 64 clusters, of which 500 are compared one by one."""
    vectors = topics(20_000, seed=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(battle_index, "CLUSTERS", 64)
        return vectors, outcomes(vectors, seed=2), clusters_of(vectors, 0)


def test_many_battles_give_the_win_rate_within_five_thousandths(
    many: tuple[np.ndarray, np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(battle_index, "NEAR", 500)
    vectors, cells, cluster = many
    index = BattleIndex(vectors, cells, 3, cluster)

    def rate(totals: np.ndarray) -> float:
        return float((totals[2] + totals[1] / 2) / totals.sum())

    found, true = [], []
    for query in topics(100, seed=3):
        near = index.weigh(query)
        assert len(near.rows) <= max(500, np.bincount(cluster).max())
        found.append(rate(near.totals))
        true.append(rate(by_the_formula(vectors, cells, 3, query)))
    assert np.ptp(true) > 0.05
    assert np.abs(np.subtract(found, true)).max() < 0.005
    assert np.corrcoef(found, true)[0, 1] > 0.99


def test_many_cells_are_grouped_more_widely(
    many: tuple[np.ndarray, np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(battle_index, "NEAR", 500)
    monkeypatch.setattr(battle_index, "GROUPS", 900)
    vectors, outcome, cluster = many
    cells = np.random.default_rng(4).integers(0, 20, len(vectors)) * 3 + outcome
    index = BattleIndex(vectors, cells, 60, cluster)
    assert index._clusters is not None and len(index._clusters._count) <= 900
    for query in topics(20, seed=5):
        expected = by_the_formula(vectors, cells, 60, query)
        found = index.weigh(query).totals
        assert_allclose(found / found.sum(), expected / expected.sum(), rtol=0.03)


def test_near_battles_are_named_by_their_own_positions(many: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    vectors, cells, cluster = many
    index = BattleIndex(vectors, cells, 3, cluster)
    for row in (0, 77, 19_999):
        near = index.weigh(vectors[row])
        assert near.rows[near.weights.argmax()] == row
        weights = 10 * 10 ** (vectors[near.rows].astype(np.float64) @ vectors[row])
        assert_allclose(near.weights, weights, rtol=1e-4)


def test_a_query_like_none_leaves_the_order_as_it_is() -> None:
    vectors = unit(np.eye(4)[:2] + 0.0)
    away = unit(-np.array([[1.0, 0.5, 0.0, 0.0]]))[0]
    near = BattleIndex(vectors, np.array([0, 1]), 2, None).weigh(away)
    assert np.isfinite(near.totals).all() and near.totals[1] > near.totals[0]


def test_equal_vectors_share_a_cluster() -> None:
    vectors = np.repeat(topics(5, seed=8), 400, axis=0)
    cells = np.tile([0, 2], 1000)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(battle_index, "CLUSTERS", 5)
        cluster = clusters_of(vectors, 0)
    index = BattleIndex(vectors, cells, 3, cluster)
    expected = by_the_formula(vectors, cells, 3, vectors[0])
    assert_allclose(index.weigh(vectors[0]).totals, expected, rtol=1e-4)
