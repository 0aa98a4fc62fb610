import numpy as np
import pytest

from serve_app.cascade.routing.supermodels import DRAWS, expected_max_of_two, standard_draws


def test_the_maximum_of_two_is_clarks():
    rng = np.random.default_rng(0)
    for a, b, s in [(0.5, 0.4, 0.3), (0.2, 0.9, 0.1), (0.5, 0.5, 1.0)]:
        simulated = np.maximum(a + s * rng.standard_normal(2_000_000), b).mean()
        found = expected_max_of_two(np.array([a]), np.array([b]), np.array([s]))[0]
        assert found == pytest.approx(simulated, abs=2e-3)


def test_of_equal_means_it_is_the_deviation_over_the_root_of_two_pi():
    found = expected_max_of_two(np.array([0.3]), np.array([0.3]), np.array([0.2]))[0]
    assert found == pytest.approx(0.3 + 0.2 / np.sqrt(2 * np.pi), abs=1e-6)


def test_without_deviation_it_is_the_larger():
    assert expected_max_of_two(np.array([0.2, 0.7]), np.array([0.5, 0.1]), np.zeros(2)).tolist() == [0.5, 0.7]


def test_draws_are_the_same_each_time_centred_and_of_unit_variance():
    draws = standard_draws(4)
    assert draws.shape == (DRAWS, 4)
    assert np.abs(draws.mean(0)).max() < 1e-12
    assert draws.var(0) == pytest.approx(np.ones(4))
    assert standard_draws(4) is draws
    with pytest.raises(ValueError, match="read-only"):
        draws[0, 0] = 1.0
