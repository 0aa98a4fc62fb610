"""The benchmark of rankers on judge preferences: its arithmetic, and a whole run on a tiny file that resumes."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import pair_ranking as bench
from serve_app.arrays import sigmoid
from tests.learning.encoders import save_encoder

MODELS = ("weak", "middle", "strong", "reference-like")


def saved(path: Path, n: int = 20) -> Path:
    rng = np.random.default_rng(0)
    rows = []
    for k in range(n):
        lengths = rng.integers(3, 9, 4)
        outputs = {m: "word " * int(length) + m for m, length in zip(MODELS, lengths, strict=True)}
        pref = {m: round(0.1 + 0.2 * i + 0.01 * float(rng.random()), 4) for i, m in enumerate(MODELS)}
        rows.append(
            {"i": k, "instruction": f"say {k}", "outputs": {**outputs, bench.REFERENCE: "word " * 5}, "pref": pref}
        )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def test_the_weakest_are_chosen_and_picks_follow_their_rules(tmp_path: Path) -> None:
    answers = bench.read(saved(tmp_path / "a.jsonl"), "weakest:3")
    assert answers.models == MODELS[:3] and answers.pref.shape == (20, 3)
    folds = bench.fold_of(20, 4, 11)
    assert np.bincount(folds.astype(int)).tolist() == [5] * 4
    scores = {name: answers.pref for name in bench.RANKERS}
    chosen = bench.picks(
        answers, [folds, bench.fold_of(20, 4, 12)], [scores, {name: -answers.pref for name in bench.RANKERS}]
    )
    assert (chosen["best single"][:, 2] == 1).all() and (chosen["oracle"][:, 2] == 1).all()
    assert np.allclose(chosen["pair ranker"], (chosen["oracle"] + bench._one_hot(-answers.pref)) / 2)
    assert (chosen["longest answer"].argmax(1) == answers.lengths.argmax(1)).all()
    assert (
        bench.pairs_right(answers.pref, answers.pref) == 1 and bench.pairs_right(0 * answers.pref, answers.pref) == 0.5
    )
    named = bench.read(tmp_path / "a.jsonl", "strong, weak")
    assert named.models == ("strong", "weak")
    with pytest.raises(bench.DataError, match="other"):
        bench.read(tmp_path / "a.jsonl", "other,weak")


def test_length_control_finds_the_weight_of_length_and_takes_it_away() -> None:
    rng = np.random.default_rng(1)
    longer = rng.normal(size=(4000, 3)) * 100
    x = np.tanh(longer / longer.std())
    terms = np.array([-1.0, 0.0, 1.0])
    pref = sigmoid(terms + 1.5 * x)
    answers = bench.Answers(("a", "b", "c"), ("p",) * 4000, (("t",) * 3,) * 4000, pref, longer)
    weight, found = bench.length_weight(answers)
    assert weight == pytest.approx(1.5, abs=1e-3)
    np.testing.assert_allclose(found, x)
    only = np.tile([0.0, 0.0, 1.0], (4000, 1))
    assert bench.controlled(only, pref, weight * x) == pytest.approx(float(sigmoid(1.0)), abs=1e-3)
    longest = bench._one_hot(longer * 1.0 - np.array([0, 1e9, 1e9]))
    assert bench.controlled(longest, pref, weight * x) == pytest.approx(float(sigmoid(-1.0)), abs=1e-3)


def test_a_fold_is_scored_by_a_ranker_that_has_not_seen_it(tmp_path: Path) -> None:
    """By the texts alone, and with what the training folds say of the models; on a tiny encoder."""
    answers = bench.read(saved(tmp_path / "a.jsonl", 300), "weakest:3")
    encoder = save_encoder(tmp_path / "encoder")
    arguments = ["--data", str(tmp_path / "a.jsonl"), "--epochs", "1", "--encoder", str(encoder), "--joint-layers", "1"]
    args = bench.arguments([*arguments, "--source-tokens", "16", "--candidate-tokens", "16", "--pairs", "2"])
    held_out = bench.fold_of(300, 5, 1) == 0
    plain, known = bench._fold_scores(answers, held_out, "pair", args, None)
    assert plain.shape == known.shape == (60, 3)
    assert (known.argmax(1) == 2).mean() > 0.9 > (plain.argmax(1) == 2).mean(), "the strongest model is the third"


def test_a_run_writes_its_results_and_resumes_by_fold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, calls = saved(tmp_path / "a.jsonl"), []

    def scores(answers: bench.Answers, held_out: np.ndarray, form: str, *rest: object) -> tuple[np.ndarray, ...]:
        calls.append(form)
        own = answers.pref[held_out]
        return (own - 0.5 * own[:, ::-1], own) if form == "pair" else (-own, -2 * own)

    monkeypatch.setattr(bench, "_fold_scores", scores)
    monkeypatch.setattr(bench, "_ROUNDS", 40)
    arguments = ["--data", str(data), "--models", "weakest:3", "--folds", "4", "--splits", "1,2"]
    arguments += ["--work", str(tmp_path / "work"), "--out", str(tmp_path / "out")]
    assert bench.main(arguments) == 0
    assert len(calls) == 16
    assert bench.main(arguments) == 0 and len(calls) == 16
    found = json.loads((tmp_path / "out" / "pair_ranking.json").read_text("utf-8"))
    rows = {row["method"]: row for row in found["rows"]}
    assert rows[bench.SERVED]["preference"] == pytest.approx(rows["oracle"]["preference"])
    assert rows["reward model"]["preference"] < rows["random pick"]["preference"] < rows["oracle"]["preference"]
    assert all(row["low"] <= row["preference"] <= row["high"] for row in found["rows"])
    assert rows[bench.SERVED]["pairs_right"] == 1 and len(rows[bench.SERVED]["by_split"]) == 2
    assert found["best_single"] == "strong" and found["serves"] == "the best single model"
    gaps = {(gap["of"], gap["to"]): gap["value"] for gap in found["differences"]}
    assert gaps[bench.SERVED, "best single"] == pytest.approx(0.0) and gaps[bench.SERVED, "reward model"] > 0.2
    assert "# Ranking real answers" in (tmp_path / "out" / "pair_ranking.md").read_text("utf-8")
    assert (tmp_path / "out" / "pair_ranking.png").stat().st_size > 1000
    assert str(tmp_path) not in (tmp_path / "out" / "pair_ranking.json").read_text("utf-8")
