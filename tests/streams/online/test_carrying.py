"""Old knowledge under new labels."""

import numpy as np
import pytest

from serve_app.streams.online.encoded import EncodedStudent, carried

LABELS = ("a", "b", "c", "d", "e")


def _world(n, seed):
    """Rows [n, dimensions + 1] of five classes, each about a direction of its own, and their labels."""
    rng = np.random.default_rng([seed, 1])
    centres = np.random.default_rng(0).normal(size=(5, 384))
    labels = rng.integers(5, size=n)
    rows = centres[labels] + 4.0 * rng.normal(size=(n, 384))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return np.column_stack([rows, np.ones(n)]).astype(np.float32), labels


def _learn(student, rows, labels, age):
    for at, (row, label) in enumerate(zip(rows, labels, strict=True), age):
        student.learn(row, int(label), at)


def _right(weights, rows, labels):
    return np.mean((rows @ weights).argmax(axis=1) == labels)


@pytest.fixture
def taught(spec):
    """Makes a student that has learned 600 labels."""

    def make(**changed):
        student = EncodedStudent(spec(labels=LABELS, levels=("encoder",), **changed))
        _learn(student, *_world(600, 1), 1)
        return student

    return make


@pytest.mark.slow
@pytest.mark.parametrize("renamed", [[1, 2, 3, 4, 0], [0, 1, 3, 2, 4], [0, 0, 1, 1, 2]])
def test_renamed_and_merged_labels_need_few_labels(taught, renamed):
    before, renamed = taught()._weights, np.array(renamed)
    rows, labels = _world(60, 2)
    unseen, theirs = _world(1000, 3)
    mapped = carried(before, rows.astype(np.float64), renamed[labels])
    assert _right(before, unseen, theirs) > 0.7
    assert _right(mapped, unseen, renamed[theirs]) > _right(before, unseen, theirs) - 0.06


@pytest.mark.slow
def test_what_did_not_change_stays(taught):
    before = taught()._weights
    rows, labels = _world(10, 4)
    unseen, theirs = _world(1000, 3)
    assert _right(carried(before, rows, labels), unseen, theirs) > _right(before, unseen, theirs) - 0.03


def test_a_student_that_begins_again_knows_more_by_what_it_carries(taught):
    right = {}
    unseen, theirs = _world(1000, 3)
    rows, labels = _world(48, 5)
    for carries in (True, False):
        student = taught(fixes={"carry_over": carries})
        _learn(student, rows, (labels + 1) % 5, 601)
        student.begin_again(601)
        right[carries] = _right(student._weights, unseen, (theirs + 1) % 5)
    assert right[True] > right[False] + 0.1


def test_a_student_that_carries_is_restored_bit_for_bit(taught, spec):
    student, again = taught(), EncodedStudent(spec(labels=LABELS, levels=("encoder",)))
    student.begin_again(580)
    again.restore({k: np.array(v) for k, v in student.state().items()})
    for one in (student, again):
        _learn(one, *_world(40, 6), 601)
    assert student._before is not None
    assert np.array_equal(student._weights, again._weights)
