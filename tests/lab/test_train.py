"""Training on micro models: it learns, it resumes to the same weights, it refuses foreign checkpoints."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from serve_app.lab.batches import IGNORE, RoundShape, TrainingBatch, encode, held_out_batches, round_of_batches
from serve_app.lab.model import VOCABULARY, ModelSize, new_model
from serve_app.lab.tasks import CELLS, TASKS
from serve_app.lab.tasks.other import ANSWER
from serve_app.lab.train import (
    FILE,
    PLAIN_UNTIL,
    STAGES,
    TrainingProgress,
    TrainingStage,
    TrainSettings,
    answer_loss,
    has_compiler,
    learning_rate_scale,
    train,
)

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
    assert values[-1] < 0.92 * values[0]
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


@pytest.mark.parametrize(("judged", "right"), [(0, [False, True, True]), (1, [True, False, False])])
def test_exactness_is_that_of_the_answer_to_the_query(judged: int, right: list[bool]) -> None:
    """A model that always says 7 is right on an answer of 7s, whatever the others are."""

    class Says(torch.nn.Module):
        def forward(self, hidden: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.one_hot(torch.full(hidden.shape[:1], 7), len(VOCABULARY)).float()

    model = new_model(MICRO, 0)
    model.lm_head = Says()
    labels = np.array([[IGNORE, 5, 5, IGNORE, 7, 7], [IGNORE, 7, 7, IGNORE, 7, 5], [IGNORE, IGNORE, 7, 7, IGNORE, 5]])
    cells, which = np.zeros(3, dtype=np.int64), np.full(3, judged)
    _, found = answer_loss(model, TrainingBatch(np.ones_like(labels), labels, cells, which))
    assert found.tolist() == right


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
    levels = [TASKS[task].sizes[size] for task, size in CELLS]
    assert all((weight > 0) == (level <= 2) for weight, level in zip(weights, levels, strict=True))
    drawn = {levels[cell] for s in round_of_batches(0, 0, weights, SHAPE) for b in s for cell in b.cells}
    assert drawn == {1, 2}


def test_an_unlearned_size_holds_back_the_next_one() -> None:
    progress = TrainingProgress()
    second = CELLS.index(("sort", "3 numbers"))
    assert progress.cell_weights(0.1)[second] == pytest.approx(0.2)
    progress.accuracy[second - 1] = 0.8
    assert progress.cell_weights(0.1)[second] == pytest.approx(1.1)


def test_a_specialist_is_trained_to_refuse_what_others_do() -> None:
    refusal = encode(ANSWER)
    for batch in held_out_batches(0, 65, rows=65, tasks=("sort", "other")):
        for labels, cell in zip(batch.labels, batch.cells, strict=True):
            said = labels[labels != IGNORE][:-1]
            assert (len(said) == len(refusal) and (said == refusal).all()) == (CELLS[cell][0] != "sort")
    weights = TrainingProgress().cell_weights(0.1, tasks=("sort", "other"))
    assert weights[CELLS.index(("add", "3 and 3 digits"))] == pytest.approx(0.3 * 1.1)


def test_compiled_training_gives_the_same_losses(tmp_path: Path) -> None:
    if not has_compiler():
        pytest.skip("no C++ compiler is installed")
    runs: dict[bool, list[str]] = {False: [], True: []}
    for compiled, lines in runs.items():
        budget = replace(settings(2 * ROUND_TOKENS), compiled=compiled)
        train(MICRO, budget, tmp_path / str(compiled), lines.append)
    assert losses(runs[True]) == pytest.approx(losses(runs[False]), rel=1e-3)


def test_mixed_precision_trains_as_float32_does(tmp_path: Path) -> None:
    """Same data, same steps: losses stay close over many steps, so no stale weights are used."""
    runs: dict[bool, list[str]] = {False: [], True: []}
    for bfloat16, lines in runs.items():
        budget = replace(settings(10 * ROUND_TOKENS), bfloat16=bfloat16)
        train(MICRO, budget, tmp_path / str(bfloat16), lines.append)
    exact, rounded = losses(runs[False]), losses(runs[True])
    assert exact[-1] < 0.9 * exact[0]
    assert rounded == pytest.approx(exact, rel=0.02)
    assert rounded != exact


@pytest.mark.parametrize("stage", STAGES)
def test_what_needs_attention_by_content_has_stages_of_its_own(stage: TrainingStage) -> None:
    within, after = (TrainingProgress().cell_weights(0.1, done=done) for done in (stage.since, stage.until))
    share = [
        sum(w for w, (task, _) in zip(each, CELLS, strict=True) if task in stage.tasks) / sum(each)
        for each in (within, after)
    ]
    assert share[0] > 1.8 * share[1]
    without = [TrainingProgress().cell_weights(0.1, tasks=("add", "other"), done=d) for d in (stage.since, stage.until)]
    assert without[0] == without[1]


def test_what_is_learned_is_taught_as_it_will_be_met() -> None:
    progress = TrainingProgress()
    progress.accuracy[:2] = (1.0, 0.5)
    assert progress.lessons(0.0)[0] == pytest.approx((0.0, 0.1))
    assert progress.lessons(0.4)[1] == pytest.approx((0.25, 0.5))
    assert all(lesson.plain == 0.0 for lesson in progress.lessons(PLAIN_UNTIL))


def test_in_a_stage_of_its_own_a_task_is_taught_plainly() -> None:
    lessons = TrainingProgress().lessons(STAGES[1].since)
    plain = {task for lesson, (task, _) in zip(lessons, CELLS, strict=True) if lesson.plain == 1.0}
    assert plain == set(STAGES[1].tasks)
