"""The training loop: it stops at its best, and a run killed anywhere ends where one that was not ends."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from serve_app.learning.descent import Checkpoint, Descent, descend


class Killed(Exception):
    """Stands for a signal."""


class Line:
    """Least squares with dropout: y = 2 x, in batches of four; `noise` makes what is held back unlearnable."""

    def __init__(self, rows: int = 40, noise: bool = False, kill_at: int | None = None) -> None:
        torch.manual_seed(0)
        self.network = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Dropout(0.3), torch.nn.Linear(8, 1))
        self.x = torch.randn(rows + 8, 3)
        self.y = 2 * self.x.sum(1, keepdim=True)
        if noise:
            self.y = torch.randn(rows + 8, 1)
        self.rows, self.kill_at, self.steps = rows, kill_at, 0

    def trained(self) -> dict[str, Any]:
        return dict(self.network.named_parameters())

    def train(self, on: bool) -> None:
        self.network.train(on)

    def batches(self, epoch: int) -> list[Any]:
        order = np.random.default_rng(epoch).permutation(self.rows)
        return [order[start : start + 4] for start in range(0, self.rows, 4)]

    def held_back(self) -> list[Any]:
        return [np.arange(self.rows, self.rows + 8)]

    def loss(self, batch: Any) -> tuple[Any, float]:
        if self.network.training:
            self.steps += 1
            if self.steps == self.kill_at:
                raise Killed
        return ((self.network(self.x[batch]) - self.y[batch]) ** 2).mean(), float(len(batch))


def equal(a: Line, b: Line) -> bool:
    return all(torch.equal(p, b.trained()[name]) for name, p in a.trained().items())


def test_it_learns_and_stops_at_its_best() -> None:
    learner, lines = Line(), list[str]()
    loss = descend(learner, Descent(60, 0.05), lines.append)
    found = [float(line.split("held back ")[1].split(",")[0]) for line in lines]
    assert found[0] > 1 and loss < 0.5 and loss == pytest.approx(min(found), abs=1e-4)
    with torch.inference_mode():
        assert float(learner.loss(learner.held_back()[0])[0]) == pytest.approx(loss)
    noise, lines = Line(noise=True), []
    descend(noise, Descent(60, 0.1), lines.append)
    assert len(lines) < 60


@pytest.mark.parametrize("kill_at", [1, 7, 10, 11, 25, 40])
def test_a_run_killed_at_any_step_ends_as_one_that_was_not(kill_at: int, tmp_path: Path) -> None:
    how = Descent(4, 0.02, seed=3, checkpoint_s=0.0, patience=9)
    whole, killed, resumed = Line(), Line(kill_at=kill_at), Line()
    descend(whole, how, lambda line: None)
    checkpoint = Checkpoint(tmp_path, "key")
    with pytest.raises(Killed):
        descend(killed, how, lambda line: None, checkpoint)
    lines = list[str]()
    descend(resumed, how, lines.append, checkpoint)
    assert resumed.steps == 40 - (kill_at - 1), "no step is repeated"
    assert equal(whole, resumed)
    if kill_at == 25:
        assert lines[0] == "resumes after epoch 2 and 4 batches"
    assert not checkpoint.path.exists()


def test_a_checkpoint_of_another_key_is_ignored(tmp_path: Path) -> None:
    how = Descent(2, 0.02, checkpoint_s=0.0)
    with pytest.raises(Killed):
        descend(Line(kill_at=12), how, lambda line: None, Checkpoint(tmp_path, "one"))
    learner = Line()
    descend(learner, how, lambda line: None, Checkpoint(tmp_path, "other"))
    assert learner.steps == 20


def test_the_rate_rises_and_falls_to_zero() -> None:
    how = Descent(1, 1.0, warm_up=0.1)
    rates = [how.rate(step, 100) for step in range(101)]
    assert rates[0] == pytest.approx(0.1) and max(rates) == pytest.approx(1.0) and rates[100] == 0.0
    assert rates.index(max(rates)) in (9, 10)


def test_the_global_random_state_is_left_alone() -> None:
    learner = Line()
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    loss = descend(learner, Descent(1, 1e-3), lambda line: None)
    assert torch.equal(torch.rand(1), expected) and math.isfinite(loss)


def test_gradients_of_several_batches_make_one_step(tmp_path: Path) -> None:
    wide, narrow = Line(rows=40), Line(rows=40)
    wide.network[1].p = narrow.network[1].p = 0.0  # type: ignore[union-attr]
    whole = wide.batches
    wide.batches = lambda epoch: [np.concatenate(whole(epoch)[i : i + 2]) for i in range(0, 10, 2)]  # type: ignore[method-assign]
    descend(wide, Descent(3, 0.05), lambda line: None)
    descend(narrow, Descent(3, 0.05, accumulate=2), lambda line: None)
    for name, parameter in wide.trained().items():
        torch.testing.assert_close(parameter, narrow.trained()[name], rtol=2e-3, atol=2e-3)
