""""""

import pytest

from serve_app.streams.replay import ReplayRow, ReplayScore, replay
from tests.streams.fakes import FakeCore, spec


def test_the_experts_column_is_learned_from_until_the_level_knows():
    told: list[int] = []
    rows = [ReplayRow("a sunny day", 0, 0)] * 5 + [ReplayRow("dark night", 1, None)]
    learner = FakeCore().new(spec())
    score = replay(learner, rows, ("logistic",), 0, lambda s: told.append(s.done))
    assert score.levels == {"llm": 3, "logistic": 3}
    assert (score.known, score.right, score.unparsed) == (6, 5, 1)
    assert learner.seen == 6
    assert told == [1, 2, 3, 4, 5, 6]


def test_texts_are_prepared_ahead_each_once_and_before_its_turn(monkeypatch):
    monkeypatch.setattr("serve_app.streams.replay._AHEAD", 4)
    prepared: list[list[str]] = []
    learner = FakeCore().new(spec())
    monkeypatch.setattr(learner, "prepare", lambda texts: prepared.append(list(texts)))
    rows = [ReplayRow(f"text {i}", 0, 0) for i in range(10)]
    ahead: list[int] = []
    replay(learner, rows, ("logistic",), 0, lambda s: ahead.append(sum(map(len, prepared))))
    assert [text for part in prepared for text in part] == [row.text for row in rows]
    assert [len(part) for part in prepared] == [4, 4, 2]
    assert ahead == [4, 4, 4, 4, 8, 8, 8, 8, 10, 10]


def test_a_share_has_an_interval():
    score = ReplayScore()
    for i in range(100):
        score.add("llm" if i < 20 else "logistic", 0, ReplayRow("x", int(i < 10)))
    found = score.to_json()
    assert found["share_interval"]["llm"] == pytest.approx([0.133, 0.289], abs=1e-3)
    assert found["accuracy_interval"] == pytest.approx([0.826, 0.945], abs=1e-3)


def test_an_empty_score_has_no_accuracy():
    assert ReplayScore().to_json() == {
        **{"queries": 0, "accuracy": None, "accuracy_interval": None, "share": {}, "share_interval": {}},
        **{"unparsed": 0, "failed": 0},
    }
