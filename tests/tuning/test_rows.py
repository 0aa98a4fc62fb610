"""Rows to learn from: every form, faults with file and line, and answers that callers liked."""

import json
from pathlib import Path

import numpy as np
import pytest

from serve_app.data.dataset import Dataset, PoolAnswers
from serve_app.errors import DataError
from serve_app.grading.feedback import FeedbackLog
from serve_app.store.reading import FeedbackRow
from serve_app.tuning.rows import FEWEST, TuningRow, best_answers, checked, liked_answers, read_rows, rows_sha256
from serve_app.types import Message, Query


def lines(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def test_both_forms_are_read(tmp_path: Path) -> None:
    turns = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "hello"},
    ]
    file = lines(tmp_path / "rows.jsonl", {"prompt": "2 + 3", "completion": "5"}, {"messages": turns})
    first, second = read_rows([file])
    assert (first.messages, first.answer) == (({"role": "user", "content": "2 + 3"},), "5")
    assert (second.messages, second.answer) == (tuple(turns[:2]), "hello")
    assert first.where.endswith("rows.jsonl, line 1")


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ({"prompt": "hi"}, "there is no answer"),
        ({"prompt": "hi", "completion": "  "}, "the answer is empty"),
        ({"messages": [{"role": "user", "content": "hi"}]}, "there is no answer"),
        ({"messages": [{"role": "robot", "content": "hi"}]}, "a role of OpenAI's"),
        ({"completion": "hi"}, "there is no prompt"),
        (
            {"messages": [{"role": "assistant", "content": "a"}, {"role": "assistant", "content": "b"}]},
            "the message before the answer is the assistant's",
        ),
        ("hi", "must be a JSON object"),
    ],
)
def test_a_bad_row_is_named_with_its_line(row: object, fault: str, tmp_path: Path) -> None:
    file = lines(tmp_path / "rows.jsonl", {"prompt": "2 + 3", "completion": "5"}, row)
    with pytest.raises(DataError, match=rf"rows\.jsonl, line 2: .*{fault}"):
        read_rows([file])


def test_repeated_rows_count_once_and_few_are_refused() -> None:
    rows = [TuningRow(({"role": "user", "content": f"q{i}"},), "a", "") for i in range(FEWEST)]
    assert len(checked(rows + rows, "x")) == FEWEST
    with pytest.raises(DataError, match=f"x: {FEWEST - 1} different rows"):
        checked(rows[1:] * 3, "x")
    assert rows_sha256(rows) != rows_sha256(rows[1:])


def pool(model: str, texts: list[list[str]], quality: list[list[float]]) -> PoolAnswers:
    nothing = np.zeros(np.shape(quality))
    return PoolAnswers(model, tuple(map(tuple, texts)), np.array(quality), nothing, nothing, nothing)


def dataset() -> Dataset:
    return Dataset(
        queries=tuple(Query((Message("user", text),)) for text in ("a", "b", "c")),
        pools={
            "small": pool("s-1", [["a0", "a1"], ["b0", "b1"], ["c0", "c1"]], [[0.2, 0.9], [0.1, 0.2], [1, 0]]),
            "large": pool("l-1", [["A0", "A1"], ["B0", "B1"], ["C0", "C1"]], [[0.9, 1.0], [0.3, 0.2], [1, 0]]),
        },
        groups=("",) * 3,
        ids=("q0", "q1", "q2"),
    )


def answers(rows: list[TuningRow]) -> dict[str, str]:
    return {row.text: row.answer for row in rows}


def test_the_best_recorded_answer_is_learned_if_it_is_good_enough() -> None:
    assert answers(best_answers(dataset(), 0.8)) == {"a": "A1", "c": "c0"}
    assert answers(best_answers(dataset(), 0.8, ["small"])) == {"a": "a1", "c": "c0"}
    assert answers(best_answers(dataset(), 0.25, ["large"])) == {"a": "A1", "b": "B0", "c": "C0"}
    with pytest.raises(DataError, match="pool 'middle': the data has answers of small, large"):
        best_answers(dataset(), 0.8, ["middle"])


def rated(prompt: str, pool: str, model: str, score: float | None, preferred: str | None = None) -> FeedbackRow:
    return FeedbackRow("id", "completed", pool, model, prompt, score, preferred, None, 1, 1, 0.0, 1.0)


def test_of_the_log_what_callers_liked_is_learned() -> None:
    scores = (
        rated("a", "small", "s-1", 0.9),
        rated("b", "small", "s-1", 0.1),
        rated("c", "large", "l-0", 1.0),  # of a model that the pool no longer has
    )
    log = FeedbackLog(scores, (rated("b", "small", "s-1", None, "large"),), {"small": "s-1", "large": "l-1"}, 0, 0)
    assert answers(liked_answers(log, dataset(), 0.8)) == {"a": "a1", "b": "B0"}
    assert answers(liked_answers(log, dataset(), 0.95)) == {"b": "B0"}
    tie = FeedbackLog((), (rated("b", "small", "s-1", None, "tie"),), {"small": "s-1"}, 0, 0)
    assert liked_answers(tie, dataset(), 0.0) == []
