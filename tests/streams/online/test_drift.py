"""Changes of the labels are noticed, odd bursts are not taken for one."""

import json

import numpy as np
import pytest

from serve_app.streams.online.base import Episode, LabeledEvent
from serve_app.streams.online.drift import DriftDetector, PageHinkley, surprise
from serve_app.streams.online.learner import OnlineCascade

DEFERRED, LOOKED = Episode(None, None, (), (), "deferred", 0), Episode(None, None, (), (), "warm-up", 0)


@pytest.mark.slow
def test_labels_that_are_as_likely_as_was_said_raise_no_alarm():
    rng = np.random.default_rng(0)
    test = PageHinkley(0.3, 15.0)
    surprises = [surprise(p, int(rng.choice(5, p=p))) for p in rng.dirichlet(np.ones(5), size=20_000)]
    assert abs(np.mean(surprises)) < 0.05
    assert not any(test.add(s, i) for i, s in enumerate(surprises))


def test_a_label_of_less_probability_surprises_more():
    p = np.array([0.5, 0.3, 0.2])
    assert surprise(p, 0) < 0 < surprise(p, 1) < surprise(p, 2)
    assert surprise(np.array([1.0, 0.0]), 1) == 3.0


def test_a_rise_is_noticed_and_dated():
    rng = np.random.default_rng(0)
    test = PageHinkley(0.3, 15.0)
    values = np.concatenate([rng.normal(0, 1, 500), rng.normal(1, 1, 200)])
    alarmed = next(i for i, value in enumerate(values) if test.add(float(value), i))
    assert 500 < alarmed < 570
    assert 400 < test.since <= 520
    assert test.level == 0.0


def _alarmed(watch, wanted=40, start=0):
    """Settled, then a burst of ten odd labels."""
    for age in range(start, start + 100):
        watch.observe(0.0, age, wanted)
    for age in range(start + 100, start + 110):
        watch.observe(2.5, age, wanted)
    return watch


def test_a_burst_alone_is_looked_at_and_let_pass():
    watch = _alarmed(DriftDetector(0.3, 10.0))
    assert (watch.looking, watch.looks) == (True, 1)
    watch.observe(3.0, 200, 40)  # was sent before: is no part of the look
    assert [watch.looked(-0.1) for _ in range(40)] == [False] * 40
    assert (watch.looking, watch.changes, watch.level) == (False, 0, 0.0)


def test_labels_that_go_on_to_surprise_have_drifted_since_the_rise():
    watch = _alarmed(DriftDetector(0.3, 10.0), start=1000)
    assert [watch.looked(0.9) for _ in range(40)] == [False] * 39 + [True]
    assert (watch.looking, watch.changes) == (False, 1)
    assert 1095 <= watch.since <= 1101


def test_without_calls_to_spare_there_is_no_look():
    watch = _alarmed(DriftDetector(0.3, 10.0), wanted=0)
    assert (watch.looking, watch.changes, watch.looks) == (False, 0, 0)


def test_a_watch_comes_back_in_the_middle_of_a_look():
    watch, again = _alarmed(DriftDetector(0.3, 10.0)), DriftDetector(0.3, 10.0)
    for _ in range(17):
        watch.looked(0.9)
    again.restore(json.loads(json.dumps(watch.state())))
    assert [again.looked(0.9) for _ in range(23)] == [False] * 22 + [True]
    assert again.since == watch.state()["look"]["since"]


def test_the_llm_answers_all_while_it_is_looked_and_nothing_is_dropped_for_a_burst(spec, queries, driven):
    learner = OnlineCascade(spec(horizon=3000, params={"drift_alarm": 4.0}))
    driven(learner, queries(900, 0))
    learned = learner.figures()["updates"]["logistic"]
    burst = [(text, (label + 1) % 3) for text, label in queries(60, 1)]
    for text, label in burst:
        if not learner.warming_up:
            learner.learn(LabeledEvent(text, label, DEFERRED))
    assert learner.policy().act("redword1", (0.99, 0.99)).why == "warm-up"
    driven(learner, queries(100, 2))
    figures = learner.figures()
    assert (figures["drift_looks"], figures["drift_alarms"], figures["warming_up"]) == (1, 0, False)
    assert figures["updates"]["logistic"] > learned


def _looking(spec, queries, driven):
    """A learner that was taught, then saw labels swapped until it looks a second time."""
    learner = OnlineCascade(spec(horizon=3000, params={"drift_alarm": 4.0}))
    driven(learner, queries(900, 0))
    for text, label in queries(60, 1, shift=1):
        if not learner.warming_up:
            learner.learn(LabeledEvent(text, label, DEFERRED))
    return learner


def test_a_drift_is_acted_on_if_the_last_answer_of_its_look_names_no_label(spec, queries, driven):
    learner = _looking(spec, queries, driven)
    looked = queries(40, 2, shift=1)
    for text, label in looked[:-1]:
        learner.learn(LabeledEvent(text, label, LOOKED))
    assert learner.warming_up
    learner.learn(LabeledEvent(looked[-1][0], None, LOOKED))
    figures = learner.figures()
    assert figures["drift_alarms"] == 1
    assert learner.warming_up  # old labels are dropped, and the LLM answers for a while
    assert learner.figures()["updates"] == {"logistic": 0}
    driven(learner, queries(600, 3, shift=1))
    asked = queries(300, 4, shift=1)
    answers = driven(learner, asked)
    assert sum(said == label for (_, label), (_, said) in zip(asked, answers, strict=True)) > 240


def test_a_look_ends_where_answers_name_no_label(spec, queries, driven):
    learner = _looking(spec, queries, driven)
    assert learner.warming_up
    for text, _ in queries(40, 2):
        learner.learn(LabeledEvent(text, None, LOOKED))
    assert not learner.warming_up
