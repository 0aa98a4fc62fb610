"""Training on micro models: it learns, it resumes to the same weights, it refuses foreign checkpoints."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from serve_app.lab.batches import IGNORE, RoundShape, TrainingBatch, held_out_batches, round_of_batches
from serve_app.lab.model import VOCABULARY, ModelSize, new_model
from serve_app.lab.tasks import CELLS
from serve_app.lab.train import FILE, TrainingProgress, TrainSettings, answer_loss, learning_rate_scale, train

MICRO = ModelSize("micro", hidden=32, layers=1, intermediate=32, train_tokens=0)
SHAPE = RoundShape(examples=384, rows=32, parts=3)
ROUND_TOKENS = 12_000


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def settings(tokens: int, seed: int = 3) -> TrainSettings:
    return TrainSettings(seed=seed, tokens=tokens, shape=SHAPE, held_out=65, checkpoint_s=0.0)


def losses(lines: list[str]) -> list[float]:
    return [float(line.split("loss ")[1].split()[0]) for line in lines if "loss" in line]


@pytest.mark.slow
def test_training_lowers_the_loss(tmp_path: Path) -> None:
    lines: list[str] = []
    train(MICRO, settings(7 * ROUND_TOKENS), tmp_path, lines.append)
    values = losses(lines)
    assert len(values) >= 3
    assert values[-1] < 0.8 * values[0]
    assert all("tokens/s" in line and "min left" in line for line in lines if "loss" in line)
    assert any("unseen exact" in line for line in lines)


class _Killed(Exception):
    """Raised in place of a kill."""


def test_resumed_run_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    budget = settings(3 * ROUND_TOKENS)
    whole, _ = train(MICRO, budget, tmp_path / "whole", lambda line: None)

    def die(model: object, progress: TrainingProgress) -> None:
        if progress.rounds == 1:
            raise _Killed

    with pytest.raises(_Killed):
        train(MICRO, budget, tmp_path / "cut", lambda line: None, die)
    lines: list[str] = []
    resumed, progress = train(MICRO, budget, tmp_path / "cut", lines.append)
    assert progress.rounds > len(losses(lines)) > 0
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_finished_run_does_no_more_work(tmp_path: Path) -> None:
    train(MICRO, settings(1), tmp_path, lambda line: None)
    lines: list[str] = []
    train(MICRO, settings(1), tmp_path, lines.append)
    assert lines == []


def test_foreign_checkpoints_are_refused(tmp_path: Path) -> None:
    train(MICRO, settings(1), tmp_path, lambda line: None)
    assert (tmp_path / FILE).exists()
    with pytest.raises(ValueError, match="seed 3, not 4"):
        train(MICRO, settings(1, seed=4), tmp_path, lambda line: None)
    wider = ModelSize("wider", hidden=64, layers=1, intermediate=32, train_tokens=0)
    with pytest.raises(ValueError, match="model shape"):
        train(wider, settings(1), tmp_path, lambda line: None)


def test_loss_is_on_answers_only() -> None:
    """Labels hold exactly the answers and their end marks; prompts and padding carry none."""
    end, user = VOCABULARY.index("<|eos|>"), VOCABULARY.index("<|user|>")
    for batch in held_out_batches(0, 65, rows=65):
        assert set(batch.labels[batch.ids == user]) == {IGNORE}
        assert (batch.labels[batch.ids == end] == end).all()
        assert (batch.labels[batch.ids == 0] == IGNORE).all()
        wanted = batch.labels != IGNORE
        assert (batch.labels[wanted] == batch.ids[wanted]).all()


def test_exactness_is_that_of_the_last_answer() -> None:
    """A model that always says 7 is right on a last answer of 7s, whatever the earlier answer was."""

    class Says(torch.nn.Module):
        def forward(self, hidden: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.one_hot(torch.full(hidden.shape[:1], 7), len(VOCABULARY)).float()

    model = new_model(MICRO, 0)
    model.lm_head = Says()
    labels = np.array([[IGNORE, 5, 5, IGNORE, 7, 7], [IGNORE, 7, 7, IGNORE, 7, 5], [IGNORE, IGNORE, 7, 7, IGNORE, 5]])
    _, right = answer_loss(model, TrainingBatch(np.ones_like(labels), labels, np.zeros(3, dtype=np.int64)))
    assert right.tolist() == [True, False, False]


def test_rounds_depend_on_their_arguments_only() -> None:
    weights = [1.0] * len(CELLS)
    first, again = (round_of_batches(1, 2, weights, SHAPE) for _ in range(2))
    other = round_of_batches(1, 3, weights, SHAPE)
    assert all((a.ids == b.ids).all() for s, t in zip(first, again, strict=True) for a, b in zip(s, t, strict=True))
    assert any(a.ids.shape != b.ids.shape or (a.ids != b.ids).any() for a, b in zip(first[0], other[0], strict=True))
    assert all(len(step) == 3 for step in first)


def test_weak_cells_are_drawn_more_often() -> None:
    progress = TrainingProgress()
    progress.observe(np.zeros(400, dtype=np.int64), np.ones(400, dtype=np.bool_))
    weights = progress.cell_weights(floor=0.1)
    assert weights[0] < 0.2 < weights[1] == pytest.approx(1.1)
    drawn = np.concatenate([b.cells for s in round_of_batches(0, 0, weights, SHAPE) for b in s])
    assert (drawn == 0).sum() < 0.5 * (drawn == 1).sum()


def test_learning_rate_rises_then_falls_to_zero() -> None:
    assert 0 < learning_rate_scale(0.0) < learning_rate_scale(0.01) < learning_rate_scale(0.02) == 1.0
    assert learning_rate_scale(0.5) == pytest.approx(0.5 / 0.98)
    assert learning_rate_scale(1.0) == learning_rate_scale(1.2) == 0.0


def test_difficulties_above_the_hardest_are_never_drawn() -> None:
    weights = TrainingProgress().cell_weights(0.1, hardest=2)
    assert all((weight > 0) == (level <= 2) for weight, (_, level) in zip(weights, CELLS, strict=True))
    drawn = {CELLS[cell][1] for s in round_of_batches(0, 0, weights, SHAPE) for b in s for cell in b.cells}
    assert drawn == {1, 2}


def test_an_unlearned_difficulty_holds_back_the_next_one() -> None:
    progress = TrainingProgress()
    second = CELLS.index(("sort", 2))
    assert progress.cell_weights(0.1)[second] == pytest.approx(0.2)
    progress.accuracy[second - 1] = 0.8
    assert progress.cell_weights(0.1)[second] == pytest.approx(1.1)


def test_mixed_precision_trains_as_float32_does(tmp_path: Path) -> None:
    """Same data, same steps: losses stay close over many steps, so no stale weights are used."""
    runs: dict[bool, list[str]] = {False: [], True: []}
    for bfloat16, lines in runs.items():
        budget = replace(settings(4 * ROUND_TOKENS), bfloat16=bfloat16)
        train(MICRO, budget, tmp_path / str(bfloat16), lines.append)
    exact, rounded = losses(runs[False]), losses(runs[True])
    assert exact[-1] < 0.9 * exact[0]
    assert rounded == pytest.approx(exact, rel=0.02)
    assert rounded != exact
