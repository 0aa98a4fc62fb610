"""Ridge regression against scikit-learn, leaving one out against doing so, and the kernel by hand."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge as Reference

from serve_app.learning.ridge import PENALTIES, fit_ridge
from serve_app.routing.kinds.stacked.stacking import GAMMA, KernelRidge


@pytest.fixture(scope="module", params=[8, 40], ids=["more rows", "more columns"])
def data(request: pytest.FixtureRequest) -> tuple[np.ndarray, np.ndarray]:
    d = request.param
    rng = np.random.default_rng(0)
    matrix = rng.standard_normal((24, d)) / d**0.5
    return matrix, matrix @ rng.standard_normal(d) + 0.5 + 0.3 * rng.standard_normal(24)


def test_the_fit_is_that_of_the_library(data: tuple[np.ndarray, np.ndarray]) -> None:
    ridge, _ = fit_ridge(*data)
    reference = Reference(alpha=ridge.penalty).fit(*data)
    np.testing.assert_allclose(ridge.weights, reference.coef_, rtol=1e-6)
    assert ridge.bias == pytest.approx(reference.intercept_)


def test_leaving_one_out_is_a_fit_on_the_others(data: tuple[np.ndarray, np.ndarray]) -> None:
    matrix, target = data
    ridge, left_out = fit_ridge(matrix, target)
    for row in (0, 17, 23):
        others = np.arange(24) != row
        reference = Reference(alpha=ridge.penalty).fit(matrix[others], target[others])
        assert left_out[row] == pytest.approx(float(reference.predict(matrix[row : row + 1])[0]), rel=1e-6)


def test_the_penalty_is_that_of_the_least_error_left_out(data: tuple[np.ndarray, np.ndarray]) -> None:
    matrix, target = data

    def error(penalty: float) -> float:
        found = 0.0
        for row in range(24):
            others = np.arange(24) != row
            reference = Reference(alpha=penalty).fit(matrix[others], target[others])
            found += float((reference.predict(matrix[row : row + 1])[0] - target[row]) ** 2)
        return found

    assert fit_ridge(matrix, target)[0].penalty == min(PENALTIES, key=error)


def test_noise_alone_gets_the_mean() -> None:
    rng = np.random.default_rng(1)
    ridge, _ = fit_ridge(rng.standard_normal((200, 20)), rng.standard_normal(200) + 3)
    assert ridge.penalty == max(PENALTIES)
    assert ridge.bias == pytest.approx(3, abs=0.3)


def test_fewer_rows_than_columns_and_constant_targets_are_fitted() -> None:
    rng = np.random.default_rng(2)
    ridge, left_out = fit_ridge(rng.standard_normal((5, 40)), np.full(5, 0.25))
    np.testing.assert_allclose(ridge.weights, 0.0, atol=1e-12)
    np.testing.assert_allclose(left_out, 0.25)


def test_the_kernel_finds_what_no_line_finds() -> None:
    rng = np.random.default_rng(3)
    rows = rng.uniform(-1, 1, (500, 2)).astype(np.float32)
    target = (rows[:, 0] * rows[:, 1] > 0).astype(float)
    rows *= 2.0
    kernel, left_out = KernelRidge.fit(rows, target, seed=0)
    _, linear = fit_ridge(rows, target)
    nonlinear, linear_error = ((left_out - target) ** 2).mean(), ((linear - target) ** 2).mean()
    assert nonlinear < 0.5 * target.var() < 0.95 * target.var() < linear_error
    apart = ((kernel.landmarks.astype(float) - rows[7]) ** 2).sum(1)
    by_hand = float(np.exp(-GAMMA * apart) @ kernel.weights) + kernel.bias
    assert kernel.predict(rows[7]) == pytest.approx(by_hand, abs=1e-3)


def test_the_kernel_survives_its_arrays_and_refuses_others() -> None:
    rng = np.random.default_rng(4)
    rows = rng.standard_normal((50, 3)).astype(np.float32)
    kernel, _ = KernelRidge.fit(rows, rng.standard_normal(50), seed=0)
    again = KernelRidge.from_arrays(kernel.arrays(), 3)
    assert again.predict(rows[0]) == kernel.predict(rows[0])
    with pytest.raises(ValueError, match="do not fit"):
        KernelRidge.from_arrays(kernel.arrays(), 4)
