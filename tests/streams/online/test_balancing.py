"""Labels that come too often are made up for, within a bound."""

import numpy as np
import pytest

from serve_app.streams.online.encoded import EncodedStudent
from serve_app.streams.online.logistic import HashedStudent
from serve_app.streams.online.replay import excess

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
