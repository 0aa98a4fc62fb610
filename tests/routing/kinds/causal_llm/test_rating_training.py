"""Fine-tuning teaches ratings, repeats itself, holds back, stops, and resumes."""

from math import isnan
from pathlib import Path

import numpy as np
import pytest
import torch

from serve_app.lab import models_dir
from serve_app.routing.kinds.causal_llm import rating_training
from serve_app.routing.kinds.causal_llm.rating_model import RatingModel
from serve_app.routing.kinds.causal_llm.rating_training import RatingLearner, RatingRecipe, train_ratings

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
    assert train_ratings(first, questions, ratings, QUICK, lines.append) < 0.1
    found = first.rate(unseen)
    assert found.parsable.all()
    assert (found.chances.argmax(1) + 1 == truth).mean() > 0.95
    assert any(line.startswith("epoch 1 of 5: loss ") for line in lines) and not any("nan" in line for line in lines)
    train_ratings(again, questions, ratings, QUICK, lines.append)
    assert np.array_equal(again.rate(unseen).chances, found.chances)


def test_it_goes_back_to_the_best_epoch_and_stops() -> None:
    rng = np.random.default_rng(0)
    questions = [f"{rng.integers(10**9)}" for _ in range(60)]
    ratings = rng.integers(1, 6, 60)  # nothing to learn
    model = RatingModel(models_dir() / "tiny")
    lines: list[str] = []
    least = train_ratings(model, questions, ratings, RatingRecipe(30, 1e-2, 8, 0), lines.append)
    held_back = [float(line.split("held back ")[1].split(",")[0]) for line in lines if "held back" in line]
    assert len(held_back) == int(np.argmin(held_back)) + 3 < 30 and least == pytest.approx(min(held_back), abs=1e-4)
    learner = RatingLearner(model, questions, ratings, RatingRecipe(30, 1e-2, 8, 0))
    with torch.inference_mode():
        parts = [learner.loss(batch) for batch in learner.held_back()]
    assert sum(float(loss) * n for loss, n in parts) / sum(n for _, n in parts) == pytest.approx(least, rel=1e-5)


def test_with_nothing_to_hold_back_all_epochs_run() -> None:
    model = RatingModel(models_dir() / "tiny")
    lines: list[str] = []
    assert isnan(train_ratings(model, ["one", "two"], np.array([1, 5]), RatingRecipe(3, 1e-3, 8, 5), lines.append))
    assert len(lines) == 3 and "held back nan" in lines[-1]
    assert not any(p.isnan().any() for p in model.model.parameters()) and torch.is_inference_mode_enabled() is False


class Killed(Exception):
    """Stands for a signal."""


def test_a_killed_run_resumes_to_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    questions, ratings = world(24, seed=3)
    recipe = RatingRecipe(3, 1e-3, 8, 0)
    plain = rating_training.Descent
    monkeypatch.setattr(rating_training, "Descent", lambda *given: plain(*given, checkpoint_s=0.0))

    def run(lines: list[str], checkpoint: Path | None) -> dict[str, torch.Tensor]:
        model = RatingModel(models_dir() / "tiny")
        train_ratings(model, questions, ratings, recipe, lines.append, checkpoint)
        return model.model.state_dict()

    whole = run([], None)
    steps, own = [0], RatingLearner.loss

    def dying(self: RatingLearner, batch: np.ndarray) -> tuple[torch.Tensor, float]:
        steps[0] += torch.is_grad_enabled()
        if steps[0] == 5:
            raise Killed
        return own(self, batch)

    monkeypatch.setattr(RatingLearner, "loss", dying)
    with pytest.raises(Killed):
        run([], tmp_path)
    monkeypatch.setattr(RatingLearner, "loss", own)
    lines: list[str] = []
    resumed = run(lines, tmp_path)
    assert lines[0].startswith("resumes after epoch 1")
    for name, tensor in whole.items():
        torch.testing.assert_close(tensor, resumed[name], rtol=0, atol=0)
    assert not list(tmp_path.iterdir())
