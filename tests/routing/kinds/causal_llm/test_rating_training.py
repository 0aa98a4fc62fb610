"""Fine-tuning teaches ratings, repeats itself, holds back, and stops."""

import numpy as np
import pytest
import torch

from serve_app.lab import models_dir
from serve_app.routing.kinds.causal_llm.rating_model import RatingModel, RatingRecipe, train_ratings

QUICK = RatingRecipe(epochs=5, learning_rate=3e-3, batch=16, seed=0)


def world(n: int, seed: int) -> tuple[list[str], np.ndarray]:
    """Short questions are rated 5, long ones 1."""
    rng = np.random.default_rng(seed)
    long = rng.random(n) < 0.5
    texts = [
        f"add {rng.integers(10**5, 10**6)} and {rng.integers(10**5, 10**6)}" if x else f"{rng.integers(1000)}?"
        for x in long
    ]
    return texts, np.where(long, 1, 5)


@pytest.mark.slow
def test_it_learns_and_repeats_itself() -> None:
    questions, ratings = world(120, seed=1)
    unseen, truth = world(60, seed=2)
    lines: list[str] = []
    first, again = RatingModel(models_dir() / "tiny"), RatingModel(models_dir() / "tiny")
    assert 1 <= train_ratings(first, questions, ratings, QUICK, lines.append) <= 5
    found = first.rate(unseen)
    assert found.parsable.all()
    assert (found.chances.argmax(1) + 1 == truth).mean() > 0.95
    assert lines[0].startswith("epoch 1 of 5: loss ") and "nan" not in lines[0]
    train_ratings(again, questions, ratings, QUICK, lines.append)
    assert np.array_equal(again.rate(unseen).chances, found.chances)


def test_it_goes_back_to_the_best_epoch_and_stops() -> None:
    rng = np.random.default_rng(0)
    questions = [f"{rng.integers(10**9)}" for _ in range(60)]
    ratings = rng.integers(1, 6, 60)  # nothing to learn
    model = RatingModel(models_dir() / "tiny")
    lines: list[str] = []
    best = train_ratings(model, questions, ratings, RatingRecipe(30, 1e-2, 8, 0), lines.append)
    held_back = [float(line.rsplit(" ", 1)[1]) for line in lines]
    assert len(lines) == best + 2 < 30 and best == int(np.argmin(held_back)) + 1


def test_with_nothing_to_hold_back_all_epochs_run() -> None:
    model = RatingModel(models_dir() / "tiny")
    lines: list[str] = []
    assert train_ratings(model, ["one", "two"], np.array([1, 5]), RatingRecipe(3, 1e-3, 8, 5), lines.append) == 3
    assert len(lines) == 3 and "held back nan" in lines[-1]
    assert not any(p.isnan().any() for p in model.model.parameters()) and torch.is_inference_mode_enabled() is False
