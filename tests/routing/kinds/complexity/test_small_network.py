""""""

import numpy as np
import pytest

from serve_app.routing.kinds.complexity.small_network import SmallNetwork, fit_network

DENSE, NAMED = ("a", "b"), ("x", "y")


def rows(n: int, seed: int) -> tuple[list[dict[str, float]], np.ndarray]:
    """Outcomes that follow a exclusive-or b, which no linear model can tell."""
    rng = np.random.default_rng(seed)
    made = [{"a": float(rng.integers(0, 2)) * 10 + 5, "b": float(rng.integers(0, 2)) / 100, "x": 1.0} for _ in range(n)]
    return made, np.array([float((row["a"] > 10) != (row["b"] > 0)) for row in made])


@pytest.fixture(scope="module")
def network() -> SmallNetwork:
    made, outcomes = rows(800, 0)
    return fit_network(made, DENSE, NAMED, outcomes, np.arange(800) % 5)


@pytest.mark.slow
def test_it_learns_what_a_line_cannot(network: SmallNetwork) -> None:
    unseen, outcomes = rows(200, 1)
    place = network.places()
    said = np.array([network.log_odds(row, place) for row in unseen])
    assert ((said > 0) == (outcomes > 0.5)).mean() > 0.95


def test_contributions_add_up(network: SmallNetwork) -> None:
    place = network.places()
    for row in ({"a": 5.0, "b": 0.01, "x": 1.0}, {"a": 15.0, "unknown": 3.0}, {}):
        terms = network.contributions(row, place)
        assert sum(terms.values()) == pytest.approx(network.log_odds(row, place), abs=1e-9)
        assert "unknown" not in terms


def test_soft_labels_are_probabilities() -> None:
    made, outcomes = rows(800, 2)
    soft = 0.25 + 0.5 * outcomes
    network = fit_network(made, DENSE, NAMED, soft, np.arange(800) % 5)
    place = network.places()
    said = np.array([1 / (1 + np.exp(-network.log_odds(row, place))) for row in made])
    assert np.abs(said - soft).mean() < 0.08


@pytest.mark.parametrize("outcome", [0.0, 1.0])
def test_one_class_gives_a_smoothed_bias(outcome: float) -> None:
    made, _ = rows(50, 3)
    network = fit_network(made, DENSE, NAMED, np.full(50, outcome), np.arange(50) % 5)
    assert (network.log_odds(made[0], network.places()) > 4) == bool(outcome)


def test_arrays_round_trip_and_those_that_do_not_fit_are_refused(network: SmallNetwork) -> None:
    again = SmallNetwork.from_arrays(network.names, network.arrays())
    row = {"a": 15.0, "b": 0.01, "y": 1.0}
    assert again.log_odds(row, again.places()) == network.log_odds(row, network.places())
    with pytest.raises(ValueError, match="do not fit"):
        SmallNetwork.from_arrays(network.names[:-1], network.arrays())
