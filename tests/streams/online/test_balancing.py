"""Labels that come too often are made up for, within a bound."""

import numpy as np
import pytest

from serve_app.streams.online.base import Episode, LabeledEvent
from serve_app.streams.online.encoded import EncodedStudent
from serve_app.streams.online.learner import OnlineCascade
from serve_app.streams.online.logistic import HashedStudent
from serve_app.streams.online.replay import evenness, excess, trust_in_even_labels

STUDENTS = {"logistic": HashedStudent, "encoder": EncodedStudent}


def test_even_labels_and_no_labels_have_no_excess():
    assert np.array_equal(excess(np.array([5, 5, 5]), 2.0), np.zeros(3))
    assert np.array_equal(excess(np.zeros(4, dtype=np.int64), 2.0), np.zeros(4))


def test_excess_is_the_log_of_the_share_over_the_even_share_within_the_bound():
    found = excess(np.array([59, 29, 29]), 2.0)  # with one more of each: a half, a quarter, a quarter
    np.testing.assert_allclose(found, np.log([1.5, 0.75, 0.75]))
    np.testing.assert_allclose(excess(np.array([999, 0, 0]), 2.0), np.log([2.0, 0.5, 0.5]))
    assert np.array_equal(excess(np.array([999, 0, 0]), 1.0), np.zeros(3))


def taught(kind: str, spec, fixes: dict[str, bool]):
    """Two labels come 3 : 1, for one and the same text."""
    made = STUDENTS[kind](spec(levels=(kind,), labels=("red", "blue"), fixes={"label_words": False} | fixes))
    row = made.predictor.features("the same text")
    for age in range(1, 201):
        made.learn(row, int(age % 4 == 0), age)
    return made.predictor.of(row)


@pytest.mark.parametrize("kind", STUDENTS)
def test_what_tells_nothing_is_of_the_frequent_label_only_where_nothing_is_balanced(kind, spec):
    told = taught(kind, spec, {})
    assert told[0] == pytest.approx(0.5, abs=0.06)
    plain = taught(kind, spec, {"balanced": False})
    assert plain[0] == pytest.approx(0.75, abs=0.06)


def test_a_favourite_of_the_llm_is_not_the_levels_favourite(spec, queries):
    """The LLM takes three texts of ten for red that are not: the level has rarer labels right the more often."""
    recall = {}
    for balanced in (True, False):
        rng = np.random.default_rng(0)
        student = HashedStudent(spec(fixes={"balanced": balanced}))
        for age, (text, label) in enumerate(queries(150, 0), 1):
            student.learn(student.predictor.features(text), 0 if rng.random() < 0.3 else label, age)
        asked = [(text, label) for text, label in queries(300, 1) if label]
        right = [student.predictor.of(student.predictor.features(text)).argmax() == label for text, label in asked]
        recall[balanced] = np.mean(right)
    assert recall[True] > recall[False] + 0.02


def test_evenness_is_the_entropy_over_that_of_even_shares():
    assert evenness(np.array([7, 7, 7])) == pytest.approx(1.0)
    assert evenness(np.array([9, 0])) == evenness(np.zeros(3, dtype=np.int64)) == 0.0
    assert evenness(np.array([2, 1])) == pytest.approx(0.918, abs=1e-3)


@pytest.mark.parametrize(
    ("counts", "trust"), [([10, 10], 1.0), ([20, 10], 0.0), ([66, 11, 11, 12], 0.0), ([64, 36], 0.756)]
)
def test_labels_are_trusted_to_be_even_by_the_answers_and_not_where_one_has_two_thirds(counts, trust):
    assert trust_in_even_labels(np.array(counts)) == pytest.approx(trust, abs=1e-3)


def _evening(learner: OnlineCascade, labels: list[int]) -> float:
    """After answers of the level and one label of the LLM."""
    for label in labels:
        learner.observe(Episode(0, label, ((0.3, 0.3, 0.4),), (0.6,), "confident", 1))
    learner.learn(LabeledEvent("redword1", 0, Episode(None, None, (), (), "deferred", 1)))
    return learner._students[0].evening


def test_how_far_a_level_balances_follows_all_answers_of_the_stream(spec):
    assert _evening(OnlineCascade(spec()), [0, 1, 2] * 30) == 1.0
    assert _evening(OnlineCascade(spec()), [0, 0, 0, 0, 1, 2] * 15) == 0.0
    assert _evening(OnlineCascade(spec(objective="balanced")), [0, 0, 0, 0, 1, 2] * 15) == 1.0


def test_a_state_from_before_answers_were_counted_is_read(spec):
    learner = OnlineCascade(spec())
    _evening(learner, [0, 1, 2] * 30)
    arrays, values = learner.state()
    del values["answers"]
    assert OnlineCascade.restored(spec(), arrays, values).figures()["evenness"] == 0.0


@pytest.mark.slow
def test_one_common_label_is_answered_more_rightly_than_where_labels_are_always_balanced(spec, queries, driven):
    """Two thirds of the texts are red, and half of all texts say nothing of their label."""
    right = {}
    for objective in ("accuracy", "balanced"):
        rng = np.random.default_rng(3)
        asked = [(text, label) for text, label in queries(1800, 0) if label == 0 or rng.random() < 0.25]
        asked = [(text if rng.random() < 0.5 else "noise1 noise2", label) for text, label in asked]
        learner = OnlineCascade(spec(objective=objective, llm_share=0.2, horizon=len(asked)))
        told = driven(learner, asked)
        right[objective] = np.mean([a == y for (_, a), (_, y) in zip(told, asked, strict=True)])
    assert right["accuracy"] > right["balanced"]
