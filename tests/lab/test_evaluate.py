"""The evaluation: balanced items, exact shares, Wilson's interval, tables, and any answer function."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from serve_app.lab.evaluate import LabReport, Share, evaluate
from serve_app.lab.sample import sample
from serve_app.lab.tasks import CELLS, LEVELS, TASKS

N = 2 * len(CELLS)


class Knows:
    """Answers the queries of some tasks rightly, with stray space, and all others with `no`."""

    def __init__(self, tasks: set[str]) -> None:
        self.book = {item.prompt: item for item in sample(N, 3, "unseen")}
        self.tasks = tasks

    def __call__(self, prompts: Sequence[str]) -> list[str]:
        items = [self.book[prompt] for prompt in prompts]
        return [f" {item.answer}\n" if item.task in self.tasks else "no" for item in items]


@pytest.fixture(scope="module")
def report() -> LabReport:
    return evaluate({"small": Knows({"add"}), "large": Knows(set(TASKS))}, n=N, seed=3)


def test_shares_by_task_and_size(report: LabReport) -> None:
    small, large = report.models
    assert large.share() == Share(N, N)
    sizes = len(TASKS["add"].sizes)
    assert small.share(task="add") == Share(2 * sizes, 2 * sizes)
    assert small.share(task="sort") == Share(0, 2 * len(TASKS["sort"].sizes))
    assert small.share("add", "3 and 3 digits") == Share(2, 2)
    assert small.share(difficulty=5).right == 2
    assert small.share().value == pytest.approx(sizes / len(CELLS))


def test_table_has_a_row_a_size_and_a_column_a_model(report: LabReport) -> None:
    lines = report.table().splitlines()
    assert len(lines) == 2 + len(CELLS) + len(TASKS) + len(LEVELS) + 1
    assert {line.count("|") for line in lines} == {6}
    assert "| add | 3 and 3 digits | 5 | 100 | 100 |" in lines
    assert "| **sort** | all |  | 0 | 100 |" in lines


def test_summary_names_model_share_and_interval(report: LabReport) -> None:
    assert f"large: 100.0 % exact of {N} unseen queries (95 % interval 97" in report.summary()


def test_wilson_interval_against_known_values() -> None:
    """The worked example of Newcombe 1998, table I: 81 of 263 gives 0.2553 to 0.3662."""
    low, high = Share(81, 263).interval
    assert (low, high) == (pytest.approx(0.2553, abs=5e-5), pytest.approx(0.3662, abs=5e-5))
    assert Share(0, 0).interval == (0.0, 1.0)
    assert Share(0, 20).interval[0] == 0.0 and Share(20, 20).interval[1] == 1.0


def test_missing_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"small .*jethro lab build"):
        evaluate(tmp_path, n=1, seed=0)
