"""All methods make the calls they are given, and are measured by what they answered."""

import json

import numpy as np
import pytest

from benchmarks.online_cascade.__main__ import _bars, main
from benchmarks.online_cascade.episodes import LLM, Replayed
from benchmarks.online_cascade.figures import measured, over_seeds
from benchmarks.online_cascade.methods import CASCADE, LEARNED, LLM_ALONE, MARGIN_TWO, METHODS, Job, _taught
from benchmarks.online_cascade.stream import Recorded
from serve_app.streams.online.base import StreamSpec

LABELS = ("sport", "food", "politics")


def recorded(n: int, seed: int) -> Recorded:
    """Words of a class's own among noise; the LLM is right, but for two answers that did not parse."""
    rng = np.random.default_rng(seed)
    gold = rng.integers(3, size=n)
    texts = tuple(f"{LABELS[c]}{rng.integers(5)} noise{rng.integers(30)}" for c in gold)
    expert = gold.copy()
    expert[:2] = -1
    return Recorded("made", texts, gold, expert, LABELS)


def job(calls: int = 30) -> Job:
    spec = StreamSpec("made", LABELS, "", llm_share=0.25, levels=("logistic",), horizon=120, audit_share=0.0)
    return Job(recorded(120, 0), recorded(60, 1), spec, calls)


@pytest.mark.parametrize(
    "name", ["margin sampling", MARGIN_TWO, "online ensemble", "front-loading", "random", "logistic alone"]
)
def test_a_baseline_makes_just_the_calls_of_its_budget(name):
    assert METHODS[name](job()).calls == 30


def test_the_llm_alone_answers_all_and_its_unparsed_answers_are_wrong():
    run = METHODS[LLM_ALONE](job())
    found = measured(job().stream, run)
    assert found["share"] == 1.0
    assert found["accuracy"] == pytest.approx(118 / 120)


def test_the_students_learn_from_the_llm():
    found = measured(job().stream, METHODS["front-loading"](job()))
    assert found["accuracy"] > 0.6
    distilled = measured(job().stream, METHODS["distillation, logistic"](job(60)))
    assert distilled["accuracy"] > 0.6


def test_figures_count_by_class_and_by_who_answered():
    stream = recorded(6, 0)
    answers = stream.gold.copy()
    answers[0] = (answers[0] + 1) % 3
    found = measured(stream, Replayed(answers, np.array([0, 0, 0, 0, LLM, LLM]), 2))
    assert found["accuracy"] == pytest.approx(5 / 6)
    assert found["who"] == {"-1": [2, 1.0], "0": [4, 0.75]}
    assert found["recall"][stream.gold[0]] < 1.0


def test_the_interval_over_seeds_is_students():
    assert over_seeds([1.0, 2.0, 3.0]) == {"mean": 2.0, "half": pytest.approx(4.30 / np.sqrt(3))}


@pytest.mark.integration
def test_the_command_writes_its_report_and_goes_on_from_what_it_kept(tmp_path, capsys):
    data = recorded(240, 3)
    rows = [
        {"text": t, "label": int(g), "llm": int(e)} for t, g, e in zip(data.texts, data.gold, data.expert, strict=True)
    ]
    path = tmp_path / "made.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    command = ["--data", str(path), "--expert", "llm", "--names", *LABELS, "--seeds", "2", "--shares", "0.3"]
    command += ["--keep", str(tmp_path / "kept"), "--out", str(tmp_path / "out")]
    assert main(command) == 0
    report = (tmp_path / "out" / "online_cascade_made.md").read_text()
    assert CASCADE in report and f"{CASCADE}, as many calls" in report
    assert (tmp_path / "out" / "online_cascade_made.png").stat().st_size > 1000
    capsys.readouterr()
    assert main(command) == 0
    assert "seed" not in capsys.readouterr().err


def test_the_verdict_is_on_all_baselines_and_names_those_within_the_interval():
    def one(mean: float, over: float) -> dict[str, object]:
        return {"accuracy": {"mean": mean, "half": 0.0}, "against": {"mean": over, "half": 0.01}}

    methods = {
        CASCADE: one(0.6, 0.0),
        LEARNED: one(0.7, -0.1),
        "random": one(0.595, 0.005),
        "front-loading": one(0.5, 0.1),
    }
    (bar,) = _bars("isear", {"0.2": methods})
    assert bar["reached"] and bar["above_all"]
    assert (bar["best_baseline"], bar["baselines"], bar["within_interval"]) == ("random", 2, ["random"])
    methods["random"] = one(0.61, -0.01)
    assert not _bars("isear", {"0.2": methods})[0]["above_all"]


def test_the_students_of_the_cascade_alone_are_balanced():
    """Where one label comes three times as often as the other, a text that tells nothing is of it."""
    texts, labels = ("the same text",) * 400, np.array([0, 0, 0, 1] * 100)
    stream = Recorded("made", texts, labels, labels, LABELS[:2])
    spec = StreamSpec("made", LABELS[:2], "", llm_share=0.25, levels=("logistic",), horizon=400)
    student = _taught(Job(stream, stream, spec, 400))
    for text, label in zip(texts, labels, strict=True):
        student.learn(text, int(label))
    assert student.of(texts[0])[0] == pytest.approx(0.75, abs=0.06)


def test_a_wrong_file_is_told_in_a_sentence(tmp_path, capsys):
    assert main(["--data", str(tmp_path / "none.jsonl"), "--expert", "llm"]) == 2
    assert "no such file" in capsys.readouterr().err
