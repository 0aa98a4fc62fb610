""""""

from contextlib import closing
from dataclasses import replace

import pytest

from serve_app.errors import DataError
from serve_app.grading.feedback import read_feedback
from serve_app.store.base import Feedback
from serve_app.store.database import Database
from serve_app.types import Step, Usage
from tests.store.test_sqlite import record


@pytest.fixture
def path(tmp_path):
    return tmp_path / "log.sqlite3"


def log(path, decisions, judgements) -> None:
    """A store with decisions, (id, pool, prompt), and what was said of them."""
    with closing(Database(str(path))) as database:
        records = []
        for at, (id_, pool, prompt) in enumerate(decisions):
            step = Step(pool, "chosen", Usage(5, 3), 0.5 if pool == "large" else 0.25)
            one = record(id_, created_s=float(at), prompt=prompt, steps=(step,))
            model = {"old": "m-old"}.get(pool, f"m-{pool}")
            decision = replace(one.decision, pool=pool.replace("old", "small"), model=model)
            records.append(replace(one, decision=decision))
        database.write(records)
        assert database.add_feedback([(j, float(i)) for i, j in enumerate(judgements)]) == [None] * len(judgements)


def test_scores_of_both_pools_become_a_dataset(path):
    prompts = {"a": "one", "b": "one", "c": "two", "d": "two", "e": "x", "f": "one"}
    pools = {"a": "small", "b": "large", "c": "small", "d": "large", "e": "small", "f": "small"}
    scores = [("a", 0.0), ("b", 1.0), ("c", 0.8), ("d", 0.8), ("e", 1.0), ("f", 0.5), ("a", 0.25)]
    log(path, [(id_, pools[id_], prompts[id_]) for id_ in pools], [Feedback(id_, score) for id_, score in scores])
    found = read_feedback(path)
    rows = found.dataset()
    assert [q.text for q in rows.queries] == ["one", "two"] and rows.ids == ("a", "c")
    assert rows.weak.quality.tolist() == [[0.375], [0.8]] and rows.strong.quality.tolist() == [[1.0], [0.8]]
    assert (rows.weak.model, rows.strong.model) == ("m-small", "m-large")
    assert rows.weak.cost_usd.tolist() == [[0.25]] * 2 and rows.strong.cost_usd.tolist() == [[0.5]] * 2
    assert rows.weak.latency_ms is not None and rows.weak.latency_ms.tolist() == [[12.5]] * 2
    assert rows.about == {
        "source": "feedback", "metric": "feedback", "quality_range": [0.0, 1.0], "without_prompt": 0,
        "scored_at_fewer_pools": 1,
    }  # fmt: skip
    battles = found.preferences()
    assert battles.model_a == ("m-large", "m-large") and battles.model_b == ("m-small", "m-small")
    assert battles.outcome.tolist() == [1.0, 0.5]


def test_stated_preferences_become_battles(path):
    log(
        path,
        [("a", "small", "one"), ("b", "large", "two"), ("c", "small", "three"), ("d", "code", "four")],
        [
            Feedback("a", preferred="large", against="large"),
            Feedback("b", preferred="large", against="small"),
            Feedback("c", preferred="tie", against="large"),
            Feedback("d", preferred="code", against="small"),
            Feedback("d", preferred="large", against="large"),
            Feedback("b", preferred="small", against="small"),
        ],
    )
    battles = read_feedback(path).preferences()
    assert [
        (q.text, a, b, o)
        for q, a, b, o in zip(battles.queries, battles.model_a, battles.model_b, battles.outcome, strict=True)
    ] == [
        ("one", "m-small", "m-large", 0.0),
        ("two", "m-large", "m-small", 0.0),
        ("three", "m-small", "m-large", 0.5),
        ("four", "m-code", "m-small", 1.0),
        ("four", "m-code", "m-large", 0.0),
    ]


def test_what_cannot_be_used_is_counted(path):
    log(
        path, [("a", "small", None), ("b", "small", "x"), ("c", "small", "y")], [Feedback("a", 1.0), Feedback("b", 1.0)]
    )
    with closing(Database(str(path))) as database:
        database.write([record("d", prompt="z", status="failed"), record("e", prompt="z", status="route_only")])
        database.add_feedback([(Feedback("d", 0.0), 9.0), (Feedback("e", 1.0), 9.0), (Feedback("a", 0.5), 9.0)])
    found = read_feedback(path)
    assert (len(found.scores), found.without_prompt, found.without_answer) == (1, 2, 2)
    assert found.summary().startswith("1 scores and 0 preferences; left out: 2 without a prompt")
    with pytest.raises(DataError, match="small, large"):
        found.dataset()
    assert len(found.preferences()) == 0


def test_a_models_scores_are_not_its_successors(path):
    decisions = [("a", "old", "one"), ("b", "large", "one"), ("c", "small", "two"), ("d", "large", "two")]
    log(path, decisions, [Feedback(id_, 1.0) for id_ in "abcd"])
    found = read_feedback(path)
    assert found.models == {"small": "m-small", "large": "m-large"}
    assert found.dataset().ids == ("c",)
    assert set(found.preferences().model_b) == {"m-old", "m-small"}


def test_any_pools_may_be_asked_for(path):
    log(path, [("a", "code", "one"), ("b", "large", "one")], [Feedback("a", 1.0), Feedback("b", 0.0)])
    rows = read_feedback(path).dataset(("code", "large"))
    assert rows.pools["code"].quality.tolist() == [[1.0]]


def test_a_pool_that_never_answered_has_no_known_model(path):
    log(path, [("a", "small", "one")], [Feedback("a", preferred="large", against="large")])
    with pytest.raises(DataError, match=r"decision 'a' .*'large'"):
        read_feedback(path).preferences()


def test_no_feedback_is_no_fault(path):
    log(path, [("a", "small", "one")], [])
    assert len(read_feedback(path).preferences()) == 0
