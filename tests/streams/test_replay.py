""""""

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


def test_an_empty_score_has_no_accuracy():
    assert ReplayScore().to_json() == {"queries": 0, "accuracy": None, "share": {}, "unparsed": 0, "failed": 0}
