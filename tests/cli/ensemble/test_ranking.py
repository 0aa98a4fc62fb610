"""`jethro ensemble rank` and `train-ranker`: from scored candidates to a ranker to ranked rows; a kill; bad input."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serve_app.ensemble.ranking.model_prior import ModelPrior
from serve_app.ensemble.ranking.pair_ranker import PairRanker, load_ranker
from tests.cli.conftest import Run
from tests.ensemble.ranking.rankers import examples
from tests.learning.encoders import save_encoder

SMALL = ("--source-tokens", "16", "--candidate-tokens", "16", "--epochs", "1")


def written(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return str(path)


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def mixinstruct(count: int) -> list[dict[str, Any]]:
    return [
        {
            "id": f"x/{k}",
            "instruction": example.source,
            "input": "",
            "output": "9",
            "candidates": [
                {"model": f"m{i}", "text": text, "scores": {"a": float(a), "b": float(b)}}
                for i, (text, (a, b)) in enumerate(zip(example.candidates, example.scores, strict=True))
            ],
        }
        for k, example in enumerate(examples(count))
    ]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_encoder(tmp_path_factory.mktemp("encoder") / "encoder"))


@pytest.fixture(scope="module")
def ranker(tmp_path_factory: pytest.TempPathFactory, encoder: str) -> Path:
    from typer.testing import CliRunner

    from serve_app.cli.main import app

    folder = tmp_path_factory.mktemp("ranker")
    data, out = written(folder / "train.jsonl", mixinstruct(20)), folder / "ranker"
    arguments = ["ensemble", "train-ranker", "--data", data, "--encoder", encoder, "--out", str(out), *SMALL]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "20 rows, metrics a, b" in result.stdout and "epoch 1 of 1" in result.stderr
    assert not out.with_name("ranker.training").exists()
    return out


def test_rows_are_ranked_in_their_order_with_any_number_of_candidates(run: Run, ranker: Path, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"source": "largest of 1 2", "candidates": ["1", "2", "", "1"], "scores": [9, 1, 1, 1]},
        {"instruction": "sum", "input": " 1", "candidates": [{"text": "7"}], "kept": "as it is"},
        {"prompt": "5", "candidates": [str(k) for k in range(50)]},
    ]
    result = run("ensemble", "rank", written(tmp_path / "rows.jsonl", rows), "--ranker", str(ranker), "--out",
                 str(tmp_path / "out.jsonl"), "--batch", "2")  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "3 rows ranked by pairranker-" in result.stdout and "2 of 3 rows" in result.stderr
    loaded = load_ranker(ranker)
    for row, found in zip(rows, read(tmp_path / "out.jsonl"), strict=True):
        texts = [c["text"] if isinstance(c, dict) else c for c in row["candidates"]]
        source = row.get("source") or row.get("prompt") or "sum 1"
        np.testing.assert_allclose(found["scores"], loaded.scores(source, texts), atol=1e-2)
        assert found["best"] == int(np.argmax(found["scores"])) and found["ranks"][found["best"]] == 1
        assert found["ranker"] == loaded.version and found.get("kept") == row.get("kept")
    assert read(tmp_path / "out.jsonl")[0]["ranks"][0] == read(tmp_path / "out.jsonl")[0]["ranks"][3]


def test_who_wrote_a_candidate_counts_where_the_ranker_knows_the_models(run: Run, ranker: Path, tmp_path: Path) -> None:
    plain = load_ranker(ranker)
    knows = PairRanker(plain.network, plain._weights, {}, ModelPrior(0.0, {"good": 1.0, "bad": -1.0}))  # type: ignore[arg-type]
    knows.save(tmp_path / "knows")
    named = [{"text": "1", "model": "bad"}, {"text": "2", "model": "good"}]
    rows = [{"source": "x", "candidates": own} for own in (named, named[::-1], [{"text": "1"}, named[1]], ["1", "2"])]
    file, out = written(tmp_path / "rows.jsonl", rows), tmp_path / "out.jsonl"
    result = run("ensemble", "rank", file, "--ranker", str(tmp_path / "knows"), "--out", str(out))
    assert result.exit_code == 0, result.output
    found = [row["scores"] for row in read(out)]
    assert found[:2] == [[-4.0, 4.0], [4.0, -4.0]], "MaxLogits of one pair: 2 * (1 - -1)"
    for scores in found[2:]:
        np.testing.assert_allclose(scores, plain.scores("x", ["1", "2"]), atol=1e-5)
    wins = tmp_path / "wins.jsonl"
    run("ensemble", "rank", file, "--ranker", str(tmp_path / "knows"), "--out", str(wins), "--policy", "max_wins")
    assert [sum(row["scores"]) for row in read(wins)] == [2] * 4, "wins are counted, of which there are two"


def test_a_killed_ranking_resumes_after_its_last_whole_line(run: Run, ranker: Path, tmp_path: Path) -> None:
    rows = [{"source": str(k), "candidates": ["1", "2"]} for k in range(5)]
    file, out = written(tmp_path / "rows.jsonl", rows), tmp_path / "out.jsonl"
    arguments = ("ensemble", "rank", file, "--ranker", str(ranker), "--out", str(out))
    assert run(*arguments).exit_code == 0
    whole = out.read_text("utf-8")
    out.write_text(whole[: whole.rfind("\n", 0, -1) - 20], "utf-8")
    again = run(*arguments)
    assert "resumes after 3 rows" in again.stderr and out.read_text("utf-8") == whole
    assert run(*arguments).exit_code == 0 and out.read_text("utf-8") == whole
    other = written(tmp_path / "other.jsonl", [{"source": "1", "candidates": ["3"]}])
    refused = run("ensemble", "rank", other, "--ranker", str(ranker), "--out", str(out))
    assert refused.exit_code == 2 and "line 1: is not of these rows" in refused.stderr
    assert out.read_text("utf-8") == whole


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"source": "1"}, "candidates must be a list"),
        ({"source": "1", "candidates": []}, "candidates must be a list"),
        ({"source": "1", "candidates": [3]}, "candidates must be a list"),
        ({"candidates": ["1"]}, "there is no source"),
    ],
)
def test_bad_rows_are_refused_by_line(
    run: Run, ranker: Path, tmp_path: Path, row: dict[str, Any], message: str
) -> None:
    file = written(tmp_path / "rows.jsonl", [{"source": "1", "candidates": ["2"]}, row])
    result = run("ensemble", "rank", file, "--ranker", str(ranker), "--out", str(tmp_path / "out.jsonl"))
    assert result.exit_code == 2 and message in result.stderr and "line 2" in result.stderr
    assert not (tmp_path / "out.jsonl").exists()


def test_a_missing_ranker_and_scores_and_a_taken_folder_are_refused(
    run: Run, ranker: Path, encoder: str, tmp_path: Path
) -> None:
    file = written(tmp_path / "rows.jsonl", [{"source": "1", "candidates": ["2"]}])
    result = run("ensemble", "rank", file, "--ranker", str(tmp_path / "none"), "--out", str(tmp_path / "out.jsonl"))
    assert result.exit_code == 2 and "no such file" in result.stderr
    rows = mixinstruct(3)
    del rows[1]["candidates"][2]["scores"]["b"]
    data = written(tmp_path / "train.jsonl", rows)
    arguments = ("ensemble", "train-ranker", "--data", data, "--encoder", encoder, *SMALL)
    missing = run(*arguments, "--out", str(tmp_path / "made"))
    assert missing.exit_code == 2 and "candidates[2]" in missing.stderr and not (tmp_path / "made").exists()
    taken = run(*arguments, "--out", str(ranker))
    assert taken.exit_code == 2 and "exists already" in taken.stderr
    unknown = run(*arguments, "--metrics", "c", "--out", str(tmp_path / "made"))
    assert unknown.exit_code == 2 and "has no c" in unknown.stderr


def test_a_reward_model_and_a_staged_ranker_of_one_metric(run: Run, encoder: str, tmp_path: Path) -> None:
    data = written(tmp_path / "train.jsonl", mixinstruct(20))
    arguments = ("ensemble", "train-ranker", "--data", data, "--encoder", encoder, "--metrics", "a", *SMALL)
    for name, options in (("reward", ("--form", "pointwise")), ("pairranker", ("--joint-layers", "1"))):
        result = run(*arguments, *options, "--out", str(tmp_path / name))
        assert result.exit_code == 0, result.output
        assert load_ranker(tmp_path / name).version.startswith(f"{name}-")
