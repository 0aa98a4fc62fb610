import numpy as np
import pytest

from serve_app.learning.logistic import fit_logistic, folds_of


def world(n: int = 4000) -> tuple[list[dict[str, float]], np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.normal(5.0, 2.0, n)
    flag = rng.random(n) < 0.5
    p = 1 / (1 + np.exp(-(1.0 * (x - 5) + 2.0 * flag - 1.0)))
    rows = [{"x": float(v), "constant": 0.7, **({"flag": 1.0} if f else {})} for v, f in zip(x, flag, strict=True)]
    return rows, p


def test_recovers_the_law_from_soft_labels_in_the_features_own_units() -> None:
    rows, p = world()
    folds = folds_of([str(i) for i in range(len(rows))], 5, 0)
    weights, bias = fit_logistic(rows, ["x", "constant"], ["flag"], p, folds)
    assert weights["x"] == pytest.approx(1.0, abs=0.05) and weights["flag"] == pytest.approx(2.0, abs=0.1)
    assert "constant" not in weights
    assert bias == pytest.approx(-6.0, abs=0.3)


def test_one_class_gives_a_smoothed_bias_and_no_weights() -> None:
    rows, _ = world(10)
    weights, bias = fit_logistic(rows, ["x"], ["flag"], np.ones(10), np.zeros(10, dtype=np.int64))
    assert weights == {} and bias == pytest.approx(np.log(10.5 / 0.5))


def test_folds_keep_equal_texts_together_and_follow_the_seed() -> None:
    texts = [f"t{i % 100}" for i in range(1000)]
    folds = folds_of(texts, 5, 0)
    assert len(set(zip(texts, folds.tolist(), strict=True))) == 100
    assert set(folds.tolist()) == {0, 1, 2, 3, 4}
    assert folds.tolist() != folds_of(texts, 5, 1).tolist()
