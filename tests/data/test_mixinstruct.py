"""MixInstruct's files: what becomes of each part, and of what is not exactly as it should be."""

import gzip
import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serve_app.data.dataset import Dataset
from serve_app.data.mixinstruct import (
    candidates_of,
    import_comparisons,
    import_mixinstruct,
    is_mixinstruct,
    scored_candidates,
)
from serve_app.data.validation import check
from serve_app.errors import DataError

Rows = list[dict[str, Any]]


def candidate(model: str, text: str, bart: float, rouge: float, method: str = "beam_search") -> dict[str, Any]:
    scores = {"bartscore": bart, "rougeL": rouge, "bleurt": bart / 2}
    return {"model": model, "decoding_method": method, "text": text, "scores": scores}


def rows() -> Rows:
    return [
        {
            "id": "laion/0",
            "instruction": "Add:",
            "input": "1+1",
            "output": "2",
            "candidates": [candidate("weak", "3", -4.0, 10.0), candidate("strong", "2", -1.0, 90.0)],
        },
        {
            "id": "dolly/1",
            "instruction": "Say hi",
            "input": "",
            "output": ["hi", "hello"],
            "candidates": [candidate("strong", "hi", -2.0, 50.0), candidate("weak", "", -0.5, 60.0)],
        },
    ]


def saved(path: Path, given: Rows) -> Path:
    if path.name.endswith(("l", "l.gz")) or path.name.startswith("lines"):
        text = "".join(json.dumps(row) + "\n" for row in given)
    else:
        text = json.dumps(given, indent=1)
    if path.name.endswith(".gz"):
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text, "utf-8")
    return path


@pytest.mark.parametrize("name", ["mix.json", "mix.jsonl", "mix.json.gz", "mix.jsonl.gz", "lines.json"])
def test_lists_and_lines_are_the_same_dataset(tmp_path: Path, name: str) -> None:
    path = saved(tmp_path / name, rows())
    assert is_mixinstruct(path)
    found = import_mixinstruct(path)
    assert list(found.pools) == ["weak", "strong"] and found.ids == ("laion/0", "dolly/1")
    assert [q.text for q in found.queries] == ["Add:1+1", "Say hi"] and found.groups == ("laion", "dolly")
    assert found.references == ("2", "hi")
    assert found.pools["weak"].texts == (("3",), ("",)) and found.pools["strong"].texts == (("2",), ("hi",))
    assert found.pools["weak"].quality.tolist() == [[np.exp(-4.0)], [np.exp(-0.5)]]
    assert found.about["score_map"] == "exp(bartscore)" and found.about["empty_texts"] == 1
    assert found.pools["strong"].scores["rougeL"].tolist() == [[90.0], [50.0]], "as they were"


@pytest.mark.parametrize(
    ("score", "first", "formula"),
    [
        ("rougeL", 0.1, "rougeL / 100"),
        ("ROUGEL", 0.1, "rougeL / 100"),
        ("bleurt", 0.0, "(bleurt + 2) / 3, clipped to [0, 1]"),
        ("bartscore", np.exp(-4.0), "exp(bartscore)"),
    ],
)
def test_each_score_is_mapped_by_its_range(tmp_path: Path, score: str, first: float, formula: str) -> None:
    found = import_mixinstruct(saved(tmp_path / "mix.json", rows()), score=score)
    assert found.pools["weak"].quality[0, 0] == pytest.approx(first) and found.about["score_map"] == formula
    assert "quality_range" not in found.about


def test_a_score_that_is_never_above_one_is_no_percentage(tmp_path: Path) -> None:
    given = rows()
    for row in given:
        for own in row["candidates"]:
            own["scores"] = {"bertscore": own["scores"]["rougeL"] / 100}
    found = import_mixinstruct(saved(tmp_path / "mix.json", given))
    assert found.pools["weak"].quality.tolist() == [[0.1], [0.6]] and found.about["score_map"] == "bertscore"


def test_a_range_keeps_the_unit(tmp_path: Path) -> None:
    path = saved(tmp_path / "mix.json", rows())
    found = import_mixinstruct(path, score="bleurt", quality_range=(-2.0, 1.0))
    assert found.pools["weak"].quality.tolist() == [[-2.0], [-0.25]]
    assert found.about["quality_range"] == [-2.0, 1.0]
    with pytest.raises(DataError, match=r"item 0: candidates\[0\].scores.bleurt is -2, outside -1 to 1"):
        import_mixinstruct(path, score="bleurt", quality_range=(-1.0, 1.0))


def test_it_can_be_saved_and_routers_can_learn_from_it(tmp_path: Path) -> None:
    path = saved(tmp_path / "mix.json", rows())
    found = import_mixinstruct(path, {"small": "weak", "large": "strong"})
    assert (found.weak.model, found.strong.model) == ("weak", "strong")
    check(found)
    found.save(tmp_path / "mix.parquet")
    loaded = Dataset.load(tmp_path / "mix.parquet")
    assert loaded.digest() == found.digest() and list(loaded.weak.scores) == ["bartscore", "rougeL", "bleurt"]
    assert loaded.take([1]).weak.scores["rougeL"].tolist() == [[60.0]]
    changed = deepcopy(rows())
    changed[0]["candidates"][0]["scores"]["rougeL"] = 11.0
    other = import_mixinstruct(saved(tmp_path / "mix2.json", changed), {"small": "weak", "large": "strong"})
    assert other.digest() != found.digest()


def test_decoding_methods_are_samples(tmp_path: Path) -> None:
    given = [*rows(), deepcopy(rows()[0]) | {"id": "laion/2"}, deepcopy(rows()[0]) | {"id": "laion/3"}]
    for row in given[:3]:
        row["candidates"].append(candidate("weak", "4", -3.0, 1.0, "top_p_sampling"))
    given[0]["candidates"].append(candidate("weak", "5", -3.0, 1.0, "top_k_sampling"))
    found = import_mixinstruct(saved(tmp_path / "mix.json", given))
    assert found.pools["weak"].texts == (("3", "4"), ("", "4"), ("3", "4"))
    assert found.about["left_out"] == 1 and found.about["surplus_candidates"] == 1
    alone = import_mixinstruct(saved(tmp_path / "mix.json", given), {"strong": "strong"})
    assert len(alone) == 4 and alone.about["left_out"] == 0, "a model that is not chosen leaves no row out"


def test_a_model_may_lack_in_a_row(tmp_path: Path) -> None:
    given = rows()
    del given[1]["candidates"][1]
    path = saved(tmp_path / "mix.json", given)
    found = import_mixinstruct(path)
    assert found.ids == ("laion/0",) and found.about["left_out"] == 1
    assert [len(row.candidates) for row in scored_candidates(path)] == [2, 1], "rankers take any number"
    given[0]["candidates"][0]["model"] = "other"
    del given[1]["candidates"][0]["scores"]
    with pytest.raises(DataError, match=r"no row has candidates of all of a, b|no candidate is of model 'b'"):
        import_mixinstruct(saved(tmp_path / "mix.json", given), {"a": "other", "b": "b"})


def test_answers_without_scores_wait_for_a_metric(tmp_path: Path) -> None:
    given = rows()
    for row in given:
        for own in row["candidates"]:
            del own["scores"]
    path = saved(tmp_path / "mix.json", given)
    found = import_mixinstruct(path)
    assert np.isnan(found.pools["weak"].quality).all() and "metric" not in found.about
    with pytest.raises(DataError, match=r"no candidate has a score 'bleurt'.*none: import without"):
        import_mixinstruct(path, score="bleurt")
    with pytest.raises(DataError, match=r"candidates\[0\] has no scores"):
        scored_candidates(path)


def test_unknown_keys_are_named(tmp_path: Path) -> None:
    given = rows()
    given[0]["note"] = "x"
    given[1]["candidates"][0]["rank"] = 3
    found = import_mixinstruct(saved(tmp_path / "mix.json", given))
    assert found.about["unknown_keys"] == ["note", "candidates.rank"]


def spoil(path: str, value: Any) -> Callable[[Rows], None]:
    def change(given: Rows) -> None:
        at: Any = given[1]
        *way, last = path.split(".")
        for key in way:
            at = at[int(key)] if key.isdigit() else at[key]
        if value is KeyError:
            del at[last]
        else:
            at[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (spoil("candidates", []), "candidates must be a list"),
        (spoil("candidates", "x"), "candidates must be a list"),
        (spoil("candidates", ["x"]), r"candidates\[0\] is no object"),
        (spoil("candidates.0.model", ""), r"candidates\[0\].model is ''"),
        (spoil("candidates.1.text", None), r"candidates\[1\].text is None"),
        (spoil("candidates.1.text", KeyError), r"candidates\[1\].text is None"),
        (spoil("candidates.0.scores", [1]), r"candidates\[0\].scores must be an object"),
        (spoil("candidates.0.scores.bleurt", "high"), r"candidates\[0\].scores.bleurt is 'high'"),
        (spoil("candidates.0.scores.bleurt", float("nan")), r"candidates\[0\].scores.bleurt is nan"),
        (spoil("candidates.0.scores.bleurt", True), r"candidates\[0\].scores.bleurt is True"),
        (spoil("candidates.0.scores.bartscore", KeyError), r"candidates\[0\].scores has no bartscore \(strong\)"),
        (spoil("candidates.0.scores.bartscore", 0.5), r"bartscore is 0.5, outside -inf to 0"),
        (spoil("instruction", ""), "there is no instruction and no input"),
        (spoil("instruction", 3), "instruction is 3"),
        (spoil("output", {"a": 1}), "output is "),
        (spoil("id", "laion/0"), "id 'laion/0' is that of"),
    ],
)
def test_what_is_malformed_is_named_with_line_and_key(
    tmp_path: Path, change: Callable[[Rows], None], message: str
) -> None:
    given = rows()
    change(given)
    with pytest.raises(DataError, match=f"mix.jsonl, line 2: .*{message}"):
        import_mixinstruct(saved(tmp_path / "mix.jsonl", given))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("mix.json", "[]", "there is no row"),
        ("mix.json", "[1]", "item 0: must be a JSON object"),
        ("mix.json", "[{", "cannot be read as JSON"),
        ("mix.json", "[" * 100_000, "cannot be read as JSON"),
        ("mix.jsonl", "{\n", "line 1: not JSON"),
        ("mix.jsonl", "\n", "there is no row"),
    ],
)
def test_files_that_cannot_be_read(tmp_path: Path, name: str, text: str, message: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    assert is_mixinstruct(path) == name.endswith(".json")
    with pytest.raises(DataError, match=message):
        import_mixinstruct(path)


def test_other_files_are_not_taken_for_it(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text('{"prompt": "q", "small_correct": true}\n')
    assert (
        not is_mixinstruct(path)
        and not is_mixinstruct(tmp_path / "none.jsonl")
        and not is_mixinstruct(tmp_path / "a.csv")
    )
    with pytest.raises(DataError, match="no such file"):
        import_mixinstruct(tmp_path / "none.json")


def test_rankers_get_every_metric(tmp_path: Path) -> None:
    path = saved(tmp_path / "mix.json", rows())
    [first, second] = scored_candidates(path, ("rougeL", "bartscore"))
    assert first.source == "Add:1+1" and first.candidates == ("3", "2") and first.reference == "2"
    assert first.scores.tolist() == [[10.0, -4.0], [90.0, -1.0]]
    assert second.scores.tolist() == [[50.0, -2.0], [60.0, -0.5]]
    assert scored_candidates(path)[0].scores.shape == (2, 3)
    with pytest.raises(DataError, match=r"item 0: candidates\[0\].scores has no bleu"):
        scored_candidates(path, ("bleu",))


def test_rankers_get_the_same_of_the_dataset(tmp_path: Path) -> None:
    found = import_mixinstruct(saved(tmp_path / "mix.json", rows()))
    [first, second] = candidates_of(found, ("rougeL", "bartscore"))
    assert first.candidates == ("3", "2") and first.scores.tolist() == [[10.0, -4.0], [90.0, -1.0]]
    assert second.candidates == ("", "hi") and second.scores.tolist() == [[60.0, -0.5], [50.0, -2.0]]
    assert candidates_of(found)[0].scores.tolist() == [[np.exp(-4.0)], [np.exp(-1.0)]]
    with pytest.raises(DataError, match="pool weak has no scores of 'bleu': there are bartscore"):
        candidates_of(found, ("bleu",))
    partial = rows()
    del partial[1]["candidates"][0]["scores"]["bleurt"]
    with pytest.raises(DataError, match=r"row 1 \(id 'dolly/1'\): an answer has no score"):
        candidates_of(import_mixinstruct(saved(tmp_path / "mix.json", partial)), ("bleurt",))


def test_comparisons_are_battles(tmp_path: Path) -> None:
    given = [*rows(), deepcopy(rows()[0]) | {"id": "laion/2"}]
    given[0]["cmp_results"] = {"weak,strong": "B is better", "strong,weak": "Same good"}
    given[1]["cmp_results"] = json.dumps({"weak,strong": "A is better"})
    found = import_comparisons(saved(tmp_path / "mix.jsonl", given))
    assert found.model_a == ("weak", "strong", "weak") and found.outcome.tolist() == [0.0, 0.5, 1.0]
    assert [q.text for q in found.queries] == ["Add:1+1", "Add:1+1", "Say hi"]
    with pytest.raises(DataError, match="there is no battle"):
        import_comparisons(saved(tmp_path / "mix.jsonl", rows()))
    for wrong in ({"weak": "A is better"}, {"a,b": "maybe"}, {"a,b,c": "A is better"}):
        given[1]["cmp_results"] = wrong
        with pytest.raises(DataError, match="line 2: cmp_results: "):
            import_comparisons(saved(tmp_path / "mix.jsonl", given))
