"""Features, stores and students."""

import numpy as np
import pytest

from serve_app.arrays import softmax
from serve_app.streams.online.encoded import EncodedStudent, label_words
from serve_app.streams.online.logistic import COLUMNS, HashedStudent, hashed
from serve_app.streams.online.policy import PREDICTORS, pooled
from serve_app.streams.online.replay import Replay, excess


def test_hashed_features_have_unit_length_and_know_no_stream():
    row = hashed("A dog, a dog and THE dog")
    assert np.linalg.norm(row[1]) == pytest.approx(1.0)
    assert np.array_equal(row, hashed("a DOG a dog and the dog"))
    assert row[0].max() < COLUMNS
    assert hashed("?!").shape == (2, 0)
    assert hashed("\ud800 word").shape[1] > 0


def test_a_full_store_lets_go_of_the_oldest_of_the_commonest_class():
    store = Replay(3, 2)
    rows = [np.full(2, i, dtype=np.float32) for i in range(4)]
    assert store.add(rows[0], 1, 1) is None
    store.add(rows[1], 0, 2)
    store.add(rows[2], 0, 3)
    gone = store.add(rows[3], 0, 4)
    assert gone is rows[1]
    assert (store.labels, store.ages) == ([1, 0, 0], [1, 3, 4])
    store.drop_before(4)
    assert store.ages == [4]


def test_a_store_is_restored_with_rows_of_several_lengths():
    store = Replay(9, 2)
    for n in (0, 3, 1):
        store.add(np.arange(2 * n, dtype=np.float32).reshape(2, n), 1, n)
    again = Replay(9, 2)
    again.restore(store.state(), (2,))
    assert [r.shape for r in again.rows] == [(2, 0), (2, 3), (2, 1)]
    assert all(np.array_equal(a, b) for a, b in zip(store.rows, again.rows, strict=True))
    empty = Replay(9, 2)
    empty.restore(Replay(9, 2).state(), (2,))
    assert len(empty) == 0


def test_the_logistic_level_learns_words(spec, queries):
    student = HashedStudent(spec())
    for age, (text, label) in enumerate(queries(300, 0), 1):
        student.learn(student.predictor.features(text), label, age)
    right = [student.predictor.of(hashed(text)).argmax() == label for text, label in queries(200, 1)]
    assert np.mean(right) > 0.9
    assert student.updates == 300 // 8


def test_a_text_without_words_gets_probabilities_all_the_same(spec):
    student = HashedStudent(spec())
    student.learn(hashed(""), 0, 1)
    told = student.predictor.of(hashed(""))
    assert told.sum() == pytest.approx(1.0)


@pytest.mark.slow
def test_the_encoder_level_reaches_the_optimum_of_the_ridge(spec):
    rng = np.random.default_rng(0)
    student = EncodedStudent(spec(levels=("encoder",), fixes={"label_words": False}))
    rows = rng.normal(size=(160, 385)).astype(np.float32)
    rows[:, :-1] /= np.linalg.norm(rows[:, :-1], axis=1, keepdims=True)
    rows[:, -1] = 1.0
    labels = rows[:, :3].argmax(axis=1)
    for age, (row, label) in enumerate(zip(rows, labels, strict=True), 1):
        student.learn(row, int(label), age)
    x, wanted = rows.astype(np.float64), np.eye(3)[labels]
    for _ in range(40):
        student._ascend(10)
    told = softmax(x @ student._weights + excess(np.bincount(labels), student._balance))
    gradient = x.T @ (told - wanted) + student._ridge[:, None] * student._weights
    assert np.abs(gradient).max() < 1e-3
    np.testing.assert_allclose(student._gram, x.T @ x / 2, atol=1e-9)


def test_label_words_alone_tell_texts_apart():
    from serve_app.learning.encoder import load_encoder

    weights = label_words(("sport", "cooking", "politics"))
    texts = ["The striker scored twice in the final", "Simmer the onions in butter", "Parliament voted on the bill"]
    vectors = np.c_[load_encoder().embed(texts), np.ones(3)]
    assert (vectors @ weights).argmax(axis=1).tolist() == [0, 1, 2]


@pytest.mark.parametrize("kind", ["logistic", "encoder"])
def test_a_predictor_comes_back_from_its_arrays(kind, spec, queries):
    made = {"logistic": HashedStudent, "encoder": EncodedStudent}[kind](spec(levels=(kind,)))
    for age, (text, label) in enumerate(queries(40, 0), 1):
        made.learn(made.predictor.features(text), label, age)
    again = PREDICTORS[kind](made.predictor.arrays(), 3)
    row = made.predictor.features("redword1 noise3")
    assert np.array_equal(again.of(row), made.predictor.of(row))


def test_a_pool_of_opinions_sharpens_where_they_agree():
    own, below = np.array([0.6, 0.3, 0.1]), np.array([0.8, 0.1, 0.1])
    both = pooled(own, below, 0.5)
    assert both.sum() == pytest.approx(1.0)
    assert both[0] > own[0]
    assert pooled(own, None, 0.5) is own
    np.testing.assert_allclose(pooled(own, np.full(3, 1 / 3), 0.5), own)
