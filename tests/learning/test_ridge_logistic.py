""""""

import numpy as np
import pytest

from serve_app.arrays import sigmoid
from serve_app.learning.logistic import fit_ridge_logistic, log_odds


def test_it_is_scikit_learns_where_both_can():
    linear_model = pytest.importorskip("sklearn.linear_model")
    rng = np.random.default_rng(0)
    x = rng.standard_normal((300, 3))
    x = (x - x.mean(0)) / x.std(0)
    y = (rng.random(300) < sigmoid(x @ np.array([1.0, -2.0, 0.0]) + 0.5)).astype(float)
    ours = fit_ridge_logistic(x, y, penalty=5.0, bias_penalty=0.0)
    theirs = linear_model.LogisticRegression(C=1 / 5.0, tol=1e-10, max_iter=1000).fit(x, y)
    assert ours.weights == pytest.approx(theirs.coef_[0], abs=1e-4)
    assert ours.bias == pytest.approx(theirs.intercept_[0], abs=1e-4)


def test_an_offset_that_says_all_leaves_nothing_to_learn():
    rng = np.random.default_rng(1)
    z = 2 * rng.standard_normal(5000)
    y = (rng.random(5000) < sigmoid(z)).astype(float)
    found = fit_ridge_logistic(z[:, None], y, penalty=1.0, offset=z)
    assert abs(found.weights[0]) < 0.15
    assert abs(found.bias) < 0.15


@pytest.mark.parametrize("y", [np.zeros(40), np.ones(40)])
def test_one_class_alone_stays_finite(y):
    found = fit_ridge_logistic(np.random.default_rng(0).standard_normal((40, 2)), y, 1.0)
    assert np.isfinite(found.log_odds(np.zeros((1, 2)))).all()


def test_separable_rows_stay_finite_and_a_flat_column_gets_no_weight():
    x = np.column_stack([np.linspace(-1, 1, 50), np.full(50, 7.0)])
    found = fit_ridge_logistic(x, (x[:, 0] > 0).astype(float), 0.1)
    assert np.isfinite(found.weights).all()
    assert found.weights[1] == 0.0


def test_soft_labels_pull_to_their_mean():
    found = fit_ridge_logistic(np.zeros((100, 1)), np.full(100, 0.25), 1.0)
    assert sigmoid(np.array([found.bias]))[0] == pytest.approx(0.25, abs=1e-3)


def test_no_columns_at_all():
    assert fit_ridge_logistic(np.zeros((10, 0)), np.ones(10) * 0.5, 1.0).weights.shape == (0,)


def test_log_odds_and_back():
    p = np.array([0.0, 0.1, 0.5, 1.0])
    assert sigmoid(log_odds(p, 1e-4)) == pytest.approx([1e-4, 0.1, 0.5, 1 - 1e-4])
    assert sigmoid(np.array([-1e6, 1e6])).tolist() == [0.0, 1.0]
