"""Training of fusers: rows, what is held back, and a run that was killed."""

from pathlib import Path

import numpy as np
import pytest
import torch

from serve_app.data.dataset import Dataset, PoolAnswers
from serve_app.data.records import Record
from serve_app.ensemble.fusing.sequence import FusionForm
from serve_app.ensemble.fusing.training import (
    FusionLearner,
    FusionRecipe,
    FusionRow,
    read_row,
    rows_of,
    train_fuser,
)
from serve_app.errors import ConfigError, DataError
from serve_app.types import Message, Query
from tests.ensemble.fusing.fusers import copies, tiny


class Killed(Exception):
    """Stands for a signal."""


def answers(*rows: tuple[str, ...]) -> PoolAnswers:
    zeros = np.zeros((len(rows), len(rows[0])))
    return PoolAnswers("m", rows, zeros, zeros, zeros, zeros)


def recorded() -> Dataset:
    queries = tuple(Query((Message("user", text),)) for text in ("one", "two", "three", "four"))
    pools = {
        "a": answers(("1", "2"), ("5", "5"), ("x", "y"), ("7", "8")),
        "b": answers(("3",), ("5",), ("z",), ("9",)),
    }
    return Dataset(queries, pools, ("",) * 4, references=("3", "5", None, "7"))


class LongestFirst:
    """A ranker that likes the answers with the higher character code."""

    version = "pairranker-test"

    def scores(self, source: str, candidates: list[str]) -> np.ndarray:
        return np.array([float(ord(c[0])) for c in candidates])


def test_rows_are_drawn_from_all_members_and_samples():
    rows = rows_of(recorded(), candidates=2, draws=20)
    assert {row.source for row in rows} == {"one", "four"}, "one answer alone, or no reference, is no row"
    assert {frozenset(row.candidates) for row in rows if row.source == "one"} == {
        frozenset(pair) for pair in ("12", "13", "23")
    }
    assert len({row.candidates for row in rows if row.source == "one"}) == 6, "in every order"
    assert {row.reference for row in rows} == {"3", "7"}
    assert rows == rows_of(recorded(), candidates=2, draws=20) != rows_of(recorded(), candidates=2, draws=20, seed=1)


def test_a_ranker_orders_the_candidates():
    rows = rows_of(recorded(), candidates=2, ranker=LongestFirst())  # type: ignore[arg-type]
    assert [row.candidates for row in rows] == [("3", "2"), ("9", "8")]


def test_nothing_to_learn_from_is_refused():
    with pytest.raises(DataError, match="nothing to learn fusing from"):
        rows_of(recorded().take([1, 2]))
    with pytest.raises(ConfigError, match="candidates 1"):
        rows_of(recorded(), candidates=1)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"source": "s", "candidates": ["a", "b"], "reference": "r"}, FusionRow("s", ("a", "b"), "r")),
        (
            {"instruction": "i ", "input": "x", "candidates": [{"text": "a"}, {"text": "b"}], "output": "o"},
            FusionRow("i x", ("a", "b"), "o"),
        ),
        (
            {"prompt": "p", "candidates": ["a", "b", "c"], "scores": [1, 3, 2.5], "reference": "r"},
            FusionRow("p", ("b", "c", "a"), "r"),
        ),
        (
            {"messages": [{"role": "user", "content": "m"}], "candidates": ["a"], "reference": "r"},
            FusionRow("m", ("a",), "r"),
        ),
    ],
)
def test_a_row_is_read(values, expected):
    assert read_row(Record(values, "f, line 1")) == expected


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"candidates": ["a"], "reference": "r"}, "line 7: there is no source"),
        ({"source": "s", "reference": "r"}, "line 7: candidates must be a list"),
        ({"source": "s", "candidates": [], "reference": "r"}, "candidates must be a list"),
        ({"source": "s", "candidates": ["a", 3], "reference": "r"}, "candidates must be a list"),
        ({"source": "s", "candidates": [{"txt": "a"}], "reference": "r"}, "candidates must be a list"),
        ({"source": "s", "candidates": ["a", "b"], "scores": [1], "reference": "r"}, "scores must be a list of 2"),
        ({"source": "s", "candidates": ["a"], "scores": ["high"], "reference": "r"}, "scores must be a list of 1"),
        ({"source": "s", "candidates": ["a"], "scores": [float("nan")], "reference": "r"}, "scores must be a list"),
        ({"source": "s", "candidates": ["a", "b"]}, "there is no reference"),
    ],
)
def test_a_wrong_row_is_named(values, message):
    with pytest.raises(DataError, match=message):
        read_row(Record(values, "f, line 7"))


def test_a_request_is_on_one_side():
    learner = FusionLearner(tiny(), copies(500), FusionRecipe())
    inside = {i for batch in learner.batches(0) for i in batch}
    outside = {i for batch in learner.held_back() for i in batch}
    assert inside | outside == set(range(len(learner))) and not inside & outside
    assert 0.02 < len(outside) / len(learner) < 0.25
    assert learner.batches(1) == learner.batches(1) != learner.batches(2)


def test_a_killed_run_ends_as_one_that_was_not(tmp_path: Path):
    recipe, rows = FusionRecipe(3, 3e-3, checkpoint_s=0.0), copies(200)
    whole, killed, resumed = tiny(), tiny(), tiny()
    train_fuser(whole, rows, recipe, lambda line: None)

    def kill(line: str) -> None:
        if line.startswith("epoch 2 of"):
            raise Killed

    with pytest.raises(Killed):
        train_fuser(killed, rows, recipe, kill, tmp_path)
    lines = list[str]()
    train_fuser(resumed, rows, recipe, lines.append, tmp_path)
    assert any(line.startswith("resumes after epoch 1 and") for line in lines)
    pairs = zip(whole.parts.model.parameters(), resumed.parts.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not list(tmp_path.iterdir())


def test_rows_that_do_not_fit_are_left_out_and_counted():
    rows = [*copies(40), FusionRow("q", ("a" * 500, "b"), "a"), FusionRow("q", ("a", "a"), "a")]
    same = sum(row.candidates[0] == row.candidates[1] for row in rows[:40])
    lines = list[str]()
    figures = train_fuser(tiny(form=FusionForm.bare(2, 60)), rows, FusionRecipe(1, 1e-3), lines.append)
    assert figures["left_out"] == 2 + same and f"{2 + same} of 42 rows" in lines[0]
    with pytest.raises(DataError, match="no row is left"):
        train_fuser(tiny(), rows[-1:], FusionRecipe(1, 1e-3), lambda line: None)


def test_the_loss_is_that_of_the_targets_tokens():
    learner = FusionLearner(tiny(), copies(30, letters=3), FusionRecipe())
    with torch.inference_mode():
        losses = [learner.loss([i]) for i in range(6)]
        together, weight = learner.loss(list(range(6)))
    assert weight == sum(w for _, w in losses) == 24
    assert float(together) == pytest.approx(sum(float(loss) * w for loss, w in losses) / 24, abs=1e-5)


@pytest.mark.parametrize("wrong", [{"epochs": 0}, {"rows": 0}, {"learning_rate": 0.0}, {"learning_rate": 2.0}])
def test_a_recipe_is_checked(wrong):
    with pytest.raises(ConfigError, match="must be 1 or more"):
        FusionRecipe(**wrong)
