""""""

import numpy as np
import pytest

from serve_app.routing.kinds.knn import neighbours
from serve_app.routing.kinds.knn.neighbours import Neighbours, Vectors, recall


def clustered(n: int, seed: int, dimensions: int = 64) -> Vectors:
    """Unit vectors around 200 centres, as sentences lie around topics."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(0).normal(size=(200, dimensions))
    found = centres[rng.integers(0, 200, n)] + rng.normal(size=(n, dimensions)) * rng.uniform(0.2, 1.0, (n, 1))
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


def exact(vectors: Vectors, query: Vectors, k: int) -> np.ndarray:
    return np.argsort(-(vectors @ query), kind="stable")[:k]


def test_few_vectors_are_searched_exactly() -> None:
    vectors = clustered(500, seed=1)
    index = Neighbours.fit(vectors, 10)
    for query in clustered(20, seed=2):
        at, similar = index.search(query, 10)
        assert at.tolist() == exact(vectors, query, 10).tolist()
        np.testing.assert_allclose(similar, (vectors @ query)[at])
    assert index.visited == 0


@pytest.mark.slow
def test_many_vectors_are_found_without_scanning_all() -> None:
    vectors = clustered(9_000, seed=3)
    index = Neighbours.fit(vectors, 50)
    queries = clustered(100, seed=4)
    found = [index.search(q, 50) for q in queries]
    assert recall([at for at, _ in found], [exact(vectors, q, 50) for q in queries]) >= 0.97
    assert 0 < index.visited < 0.3 * 4 * np.sqrt(9_000)
    for query, (at, similar) in zip(queries, found, strict=True):
        np.testing.assert_allclose(similar, vectors[at] @ query, atol=1e-6)
        assert (np.diff(similar) <= 0).all()


def test_what_cannot_be_found_in_time_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "EXACT_UP_TO", 1_000)
    monkeypatch.setattr(neighbours, "MOST_SCANNED", 200)
    rng = np.random.default_rng(5)
    vectors = rng.normal(size=(4_000, 64)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    index = Neighbours.fit(vectors, 20)
    assert index.recall_ < 0.9


@pytest.mark.parametrize("limit", [100, 10_000])
def test_an_index_from_its_arrays_searches_alike(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "EXACT_UP_TO", limit)
    vectors = clustered(2_000, seed=6)
    index = Neighbours.fit(vectors, 10)
    again = Neighbours.from_arrays(index.vectors, index.arrays())
    np.testing.assert_array_equal(index.vectors, vectors)
    for query in clustered(20, seed=7):
        for ours, theirs in zip(index.search(query, 10), again.search(query, 10), strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_parts_that_do_not_fit_are_refused() -> None:
    index = Neighbours.fit(clustered(50, seed=8), 5)
    with pytest.raises(ValueError, match="do not fit"):
        Neighbours.from_arrays(index.vectors[:-1], index.arrays())


def test_more_are_asked_for_than_there_are() -> None:
    index = Neighbours.fit(clustered(5, seed=9), 5)
    at, _ = index.search(clustered(1, seed=10)[0], 50)
    assert sorted(at.tolist()) == list(range(5))
