""""""

import csv
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serve_app.data.importing import import_outcomes, import_preferences
from serve_app.errors import DataError

ROWS: list[dict[str, Any]] = [
    {"id": "q-0", "benchmark": "sums", "subject": "add", "prompt": "1+1", "small_correct": True, "large_correct": True,
     "contaminated": True, "small_response": "2", "large_response": "two"},
    {"id": "q-1", "benchmark": "sums", "subject": "add", "prompt": "1+2", "small_correct": False, "large_correct": True,
     "contaminated": False, "small_response": "4", "large_response": "three"},
    {"id": "q-2", "benchmark": "sums", "subject": "sub", "prompt": "2-1", "small_correct": True, "large_correct": False,
     "contaminated": False, "small_response": "1", "large_response": "0"},
]  # fmt: skip


def lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_outcomes_become_a_dataset(tmp_path: Path) -> None:
    options = {"small": "mixtral", "large": "gpt-4"}
    found = import_outcomes(lines(tmp_path / "r.jsonl", ROWS), options)
    assert found.ids == ("q-1", "q-2") and found.groups == ("add", "sub")
    assert [q.text for q in found.queries] == ["1+2", "2-1"]
    assert (found.weak.model, found.strong.model) == ("mixtral", "gpt-4")
    assert found.weak.quality.tolist() == [[0.0], [1.0]] and found.strong.quality.tolist() == [[1.0], [0.0]]
    assert found.weak.texts == (("4",), ("1",)) and found.weak.latency_ms is None
    assert found.about["contaminated_dropped"] == 1 and found.about["metric"] == "correct"
    assert found.about["benchmark"] == "sums" and "quality_range" not in found.about
    assert found.about["not_recorded"] == ["completion_tokens", "cost_usd", "latency_ms", "prompt_tokens"]
    assert not found.weak.cost_usd.any()
    kept = import_outcomes(tmp_path / "r.jsonl", keep_contaminated=True)
    assert len(kept) == 3 and kept.about["contaminated_dropped"] == 0 and kept.weak.model == "small"


def test_csv_gives_the_same(tmp_path: Path) -> None:
    with (tmp_path / "r.csv").open("w", newline="") as out:
        writer = csv.DictWriter(out, list(ROWS[0]))
        writer.writeheader()
        writer.writerows(ROWS)
    assert import_outcomes(tmp_path / "r.csv").digest() == import_outcomes(lines(tmp_path / "r.jsonl", ROWS)).digest()


def test_any_pools_with_samples_costs_and_tokens(tmp_path: Path) -> None:
    row = {
        "prompt": "q", "reference": "42", "a_quality": [0.5, 1.0], "a_response": ["x", "y"], "a_cost_usd": [1e-6, 2e-6],
        "a_prompt_tokens": 7, "a_completion_tokens": [3, 4], "a_latency_ms": [10, 20],
        "b_x_score": [0, 1], "c_response": ["u", "v"],
    }  # fmt: skip
    found = import_outcomes(lines(tmp_path / "r.jsonl", [row]))
    assert list(found.pools) == ["a", "b_x", "c"] and found.ids == ("r-0",) and found.references == ("42",)
    a = found.pools["a"]
    assert a.quality.tolist() == [[0.5, 1.0]] and a.cost_usd.tolist() == [[1e-6, 2e-6]] and a.texts == (("x", "y"),)
    assert a.prompt_tokens.tolist() == [[7, 7]] and a.latency_ms is not None and a.latency_ms.tolist() == [[10, 20]]
    assert np.isnan(found.pools["c"].quality).all() and found.pools["c"].texts == (("u", "v"),)
    assert found.pools["b_x"].texts == (("", ""),)
    assert list(import_outcomes(tmp_path / "r.jsonl", {"b_x": "m"}).pools) == ["b_x"]


def test_the_scale_of_mt_bench_is_known_and_others_must_be_given(tmp_path: Path) -> None:
    row = {"id": "a", "benchmark": "mt_bench", "turns": ["q", "r"], "turn": 2, "small_score": 8.5, "large_score": 10}
    found = import_outcomes(lines(tmp_path / "r.jsonl", [row]))
    assert found.about["quality_range"] == [1.0, 10.0] and found.queries[0].text == "q\nr"
    path = lines(tmp_path / "s.jsonl", [row | {"benchmark": "mine"}])
    with pytest.raises(DataError, match=r"s.jsonl, line 1: small_score .*8.5.*--quality-range"):
        import_outcomes(path)
    assert import_outcomes(path, quality_range=(0, 100)).about["quality_range"] == [0, 100]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": "q-1"}, r"line 3: .*'q-1' .*line 2"),
        ({"small_correct": None}, "line 3: small_correct .*None"),
        ({"small_correct": float("nan")}, "line 3: small_correct .*nan.*finite"),
        ({"small_correct": "good"}, "line 3: small_correct .*'good'"),
        ({"small_correct": [1, 0]}, "line 3: small_correct .*2 samples"),
        ({"small_response": ["a", "b"]}, "line 3: small_response .*2 samples"),
        ({"prompt": ""}, "line 3: .*prompt"),
        ({"contaminated": "perhaps"}, "line 3: contaminated .*'perhaps'"),
        ({"small_quality": 1.0}, "small_correct and small_quality"),
    ],
)
def test_bad_rows_are_refused_with_place_and_reason(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = lines(tmp_path / "r.jsonl", [*ROWS[:2], ROWS[2] | change])
    with pytest.raises(DataError, match=message):
        import_outcomes(path)


def test_files_without_outcomes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no row"):
        import_outcomes(lines(tmp_path / "r.jsonl", []))
    with pytest.raises(DataError, match=r"1 rows .*--keep-contaminated"):
        import_outcomes(lines(tmp_path / "r.jsonl", ROWS[:1]))
    with pytest.raises(DataError, match="small_correct"):
        import_outcomes(lines(tmp_path / "r.jsonl", [{"prompt": "q"}]))
    with pytest.raises(DataError, match=r"mid_correct, .*small, large"):
        import_outcomes(lines(tmp_path / "r.jsonl", ROWS), {"mid": "m"})


def test_battles_in_the_forms_of_the_arena(tmp_path: Path) -> None:
    said = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]
    rows: list[dict[str, Any]] = [
        {"prompt": "q", "winner": "model_a"},
        {"prompt": '["one", "two"]', "winner": "model_b"},
        {"prompt": '["not a list', "winner": "tie"},
        {"messages": said, "winner": "tie (bothbad)"},
        {"conversation_a": said, "winner": "model_a"},
    ]
    path = lines(tmp_path / "p.jsonl", [{**r, "model_a": f"a{i}", "model_b": "b"} for i, r in enumerate(rows)])
    found = import_preferences(path)
    assert [q.text for q in found.queries] == ["q", "one\ntwo", '["not a list', "x\ny", "x"]
    assert found.outcome.tolist() == [1.0, 0.0, 0.5, 0.5, 1.0]
    assert found.model_a == ("a0", "a1", "a2", "a3", "a4") and set(found.model_b) == {"b"}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "q", "model_a": "a", "model_b": "b", "winner": "nobody"}, "winner is 'nobody', not one of"),
        ({"prompt": "q", "model_a": "a", "model_b": "b"}, "winner is None"),
        ({"prompt": "q", "model_b": "b", "winner": "tie"}, "there is no model_a"),
        ({"model_a": "a", "model_b": "b", "winner": "tie"}, "there is no prompt"),
        (
            {"conversation_a": [{"role": "system", "content": "x"}], "model_a": "a", "model_b": "b", "winner": "tie"},
            "conversation_a has no turn of the user",
        ),
    ],
)
def test_bad_battles_are_refused(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=f"line 1: {message}"):
        import_preferences(lines(tmp_path / "p.jsonl", [row]))
    with pytest.raises(DataError, match="no row"):
        import_preferences(lines(tmp_path / "p.jsonl", []))


@pytest.mark.skipif("JETHRO_TEST_DATA" not in os.environ, reason="JETHRO_TEST_DATA names no folder of recorded answers")
def test_recorded_answers_of_real_models_have_the_published_figures() -> None:
    folder = Path(os.environ["JETHRO_TEST_DATA"]) / "routing" / "routellm"
    expected = {"gsm8k": (1307, 0.6373, 0.8577), "mmlu_dev": (7655, 0.7032, 0.8314), "mt_bench": (144, 8.281, 9.212)}
    for name, (n, small, large) in expected.items():
        found = import_outcomes(folder / f"{name}.jsonl.gz")
        assert len(found) == n
        assert found.weak.quality.mean() == pytest.approx(small, abs=5e-4)
        assert found.strong.quality.mean() == pytest.approx(large, abs=5e-4)
