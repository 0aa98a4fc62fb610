"""Labels of Hybrid LLM's routers against the paper's definitions, written out."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from serve_app.data.dataset import Dataset, PoolAnswers
from serve_app.errors import ConfigError
from serve_app.routing.kinds.fine_tuned.routers import (
    HybridDet,
    HybridProb,
    HybridTrans,
    best_relaxation,
    gaps,
    mean_difference,
    relaxed_labels,
)
from serve_app.types import Message, Query


def pool(model: str, quality: np.ndarray) -> PoolAnswers:
    ones = np.ones(quality.shape)
    texts = tuple(("a",) * quality.shape[1] for _ in quality)
    return PoolAnswers(model, texts, quality, ones, ones, ones)


def dataset(small: list[list[float]], large: list[list[float]]) -> Dataset:
    pools = {"small": pool("s", np.array(small)), "large": pool("l", np.array(large))}
    queries = tuple(Query((Message("user", f"q{i}"),)) for i in range(len(small)))
    return Dataset(queries, pools, ("",) * len(small))


BY_HAND = dataset(
    small=[[1.0, 0.0], [0.0, 0.0], [0.5, 0.5], [0.0, 1.0]],
    large=[[1.0, 1.0], [1.0, 0.5], [0.5, 1.0], [0.5, 0.0]],
)


def test_det_labels_compare_the_first_answers() -> None:
    labels, relaxation = HybridDet().labels(BY_HAND)
    assert labels.tolist() == [1.0, 0.0, 1.0, 0.0] and relaxation == 0.0


def test_prob_labels_count_all_pairs_of_samples() -> None:
    labels, relaxation = HybridProb().labels(BY_HAND)
    assert labels.tolist() == [0.5, 0.0, 0.5, 0.75] and relaxation == 0.0


def test_trans_labels_are_those_of_the_relaxation_that_spreads_them_most() -> None:
    labels, relaxation = HybridTrans().labels(BY_HAND)
    by_relaxation = {
        0.0: [0.5, 0.0, 0.5, 0.75],
        0.5: [0.5, 0.5, 1.0, 1.0],
        1.0: [1.0, 1.0, 1.0, 1.0],
    }
    spread = {t: np.abs(np.subtract.outer(y, y)).mean() for t, y in by_relaxation.items()}
    assert relaxation == max(spread, key=lambda t: (spread[t], -t)) == 0.0
    assert labels.tolist() == by_relaxation[0.0]


def test_the_relaxation_helps_where_the_small_model_never_wins() -> None:
    never = dataset(small=[[0.8], [0.8], [0.1], [0.2]], large=[[0.9], [0.9], [0.9], [0.9]])
    assert HybridProb().labels(never)[0].tolist() == [0, 0, 0, 0]
    labels, relaxation = HybridTrans().labels(never)
    assert relaxation == pytest.approx(0.1)
    assert labels.tolist() == [1, 1, 0, 0]


def test_exact_match_leaves_nothing_to_relax() -> None:
    """Qualities of 0 and 1 have gaps of -1, 0 and 1: a relaxation below 1 changes nothing, one of 1 says always yes."""
    rng = np.random.default_rng(0)
    exact = dataset(rng.integers(0, 2, (50, 5)).tolist(), np.ones((50, 5)).tolist())
    labels, relaxation = HybridTrans().labels(exact)
    assert relaxation == 0.0
    assert labels.tolist() == HybridProb().labels(exact)[0].tolist()
    assert relaxed_labels(gaps(exact), 0.99).tolist() == labels.tolist()
    assert relaxed_labels(gaps(exact), 1.0).tolist() == [1.0] * 50


@given(arrays(float, st.integers(1, 30), elements=st.floats(0, 1)))
def test_mean_difference_is_that_of_all_pairs(labels: np.ndarray) -> None:
    assert mean_difference(labels) == pytest.approx(np.abs(np.subtract.outer(labels, labels)).mean(), abs=1e-12)


@settings(max_examples=50)
@given(arrays(float, (8, 6), elements=st.integers(-6, 3).map(lambda x: x / 4)))
def test_no_relaxation_spreads_labels_more_than_the_chosen_one(gap: np.ndarray) -> None:
    def spread(t: float) -> float:
        y = (gap >= -t).mean(axis=1)
        return float(np.abs(np.subtract.outer(y, y)).mean())

    found = best_relaxation(gap)
    assert found >= 0.0
    assert spread(found) >= max(spread(t) for t in np.linspace(0, 2, 81)) - 1e-12


def test_many_gaps_are_thinned_to_nearly_the_best() -> None:
    rng = np.random.default_rng(1)
    gap = rng.normal(-1.0, 1.0, (400, 10)) + rng.normal(0, 1, (400, 1))
    full = max(mean_difference(relaxed_labels(gap, t)) for t in -gap[gap < 0][::7])
    assert mean_difference(relaxed_labels(gap, best_relaxation(gap))) > 0.999 * full


def test_answers_without_quality_are_refused() -> None:
    unscored = dataset([[np.nan]], [[1.0]])
    with pytest.raises(ConfigError, match=r"hybrid_prob: .*quality"):
        HybridProb().fit(unscored)


def test_the_score_is_the_strong_models_side_of_the_label() -> None:
    easy, hard = ([f"{word} {i}" for i in range(60)] for word in ("easy", "hard"))
    small = [[1.0]] * 60 + [[0.0]] * 60
    queries = tuple(Query((Message("user", text),)) for text in easy + hard)
    pools = {"small": pool("s", np.array(small)), "large": pool("l", np.ones((120, 1)))}
    lines: list[str] = []
    router = HybridProb(encoder="scratch-1x32", epochs=6, learning_rate=5e-3)
    scores = router.fit(Dataset(queries, pools, ("",) * 120), lines.append).score(queries)
    assert scores[:60].mean() < 0.3 < 0.7 < scores[60:].mean()
    assert lines[0] == "hybrid_prob: 120 queries, mean label 0.500, t 0"
