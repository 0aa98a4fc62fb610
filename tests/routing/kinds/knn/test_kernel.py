""""""

import numpy as np
import pytest

from serve_app.routing.kinds.knn.neighbours import Kernel, choose_kernel, log_odds


def circle(angles: np.ndarray) -> np.ndarray:
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def test_shares_fall_with_distance_and_leave_the_prior_its_part() -> None:
    shares = Kernel(2, 0.1, 1.0).shares(np.array([[0.9, 0.8, 0.7]]))
    nearest = 1 / (1 + np.exp(-1) + 1)
    np.testing.assert_allclose(shares, [[nearest, nearest * np.exp(-1), 0.0]])


def test_noise_asks_for_more_neighbours_than_a_clean_border() -> None:
    rng = np.random.default_rng(0)
    angles = rng.uniform(0, np.pi, 600)
    vectors = circle(angles)
    clean = (angles > np.pi / 2).astype(float)
    noisy = (rng.random(600) < np.where(angles > np.pi / 2, 0.65, 0.35)).astype(float)
    chosen = [choose_kernel(vectors, y, Kernel(None, 1.0, 1e-3), 0.5, 0) for y in (clean, noisy)]
    assert chosen[0].nearest < chosen[1].nearest


def test_the_choice_has_the_least_loss_out_of_sample() -> None:
    rng = np.random.default_rng(1)
    angles = rng.uniform(0, np.pi, 300)
    outcomes = (rng.random(300) < np.sin(angles) ** 2).astype(float)
    vectors = circle(angles)
    prior = float(outcomes.mean())

    def loss(kernel: Kernel) -> float:
        total = 0.0
        for i in range(300):
            similar = np.delete(vectors @ vectors[i], i)
            order = np.argsort(-similar, kind="stable")
            near = np.delete(outcomes, i)[order]
            p = prior + float(kernel.shares(similar[order]) @ (near - prior))
            total -= np.log(p if outcomes[i] else 1 - p)
        return total

    chosen = choose_kernel(vectors, outcomes, Kernel(None, 0.1, 2.0), prior, 0)
    losses = {k: loss(Kernel(k, 0.1, 2.0)) for k in (4, 8, 16, 32, 64, 128)}
    assert losses[chosen.nearest] == pytest.approx(min(losses.values()))


def test_one_class_or_few_queries_leave_nothing_to_choose() -> None:
    vectors = circle(np.linspace(0, 1, 20))
    for rows in (20, 2):
        kernel = choose_kernel(vectors[:rows], np.ones(rows), Kernel(None, None, None), 0.9, 0)
        assert None not in (kernel.k, kernel.temperature, kernel.shrinkage)


def test_log_odds() -> None:
    assert log_odds(0.5) == 0
    assert log_odds(0.9) == pytest.approx(-log_odds(0.1)) == pytest.approx(np.log(9))
