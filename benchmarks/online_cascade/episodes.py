"""Replays: who answered each query of a stream, and with what: the cascade, and baselines with the same students."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.online_cascade.stream import Recorded
from serve_app.streams.online.base import LabeledEvent, StreamSpec, Student
from serve_app.streams.online.budget import LlmBudget
from serve_app.streams.online.encoded import EncodedStudent
from serve_app.streams.online.learner import OnlineCascade
from serve_app.streams.online.policy import STUDENTS, pooled
from serve_app.streams.online.settings import has_fix, settings_of

LLM = -1


@dataclass(frozen=True, slots=True)
class Replayed:
    """`answers` [n] are label indices, -1 for an answer that did not parse; `by` [n]: the level, or LLM."""

    answers: NDArray[np.int64]
    by: NDArray[np.int64]
    calls: int
    figures: Mapping[str, Any] = field(default_factory=dict)


def cascade(stream: Recorded, spec: StreamSpec) -> Replayed:
    """The cascade as a service would run it, policy and learner in one process."""
    learner = OnlineCascade(spec)
    rng = np.random.default_rng([spec.seed, 7])
    answers, by = np.empty(len(stream), dtype=np.int64), np.empty(len(stream), dtype=np.int64)
    trace = []
    for t, text in enumerate(stream.texts):
        policy = learner.policy()
        episode = policy.act(text, rng.random(1 + len(spec.levels)))
        policy.observe(episode)
        learner.observe(episode)
        if episode.level is None:
            answers[t], by[t] = stream.expert[t], LLM
            label = int(stream.expert[t])
            learner.learn(LabeledEvent(text, label if label >= 0 else None, episode))
        else:
            answers[t], by[t] = episode.label, episode.level
        trace.append(learner.figures()["drift_alarms"])
    figures = learner.figures() | {"alarms_at": [int(t) for t in np.flatnonzero(np.diff([0, *trace]) > 0)]}
    return Replayed(answers, by, int((by == LLM).sum()), figures)


Asks = Callable[[int, NDArray[np.float64]], bool]
"""Whether to ask the LLM, by place in the stream and the student's class probabilities [labels]."""


class Taught:
    """The students of `spec.levels` as one: pooled as the cascade's top level pools them, or their plain mean."""

    def __init__(self, spec: StreamSpec, averaged: bool = False) -> None:
        self._students: list[Student] = [STUDENTS[kind](spec) for kind in spec.levels]
        self._weight = settings_of(spec).pooling if has_fix(spec, "pooled") else 0.0
        self._averaged = averaged
        self._age = 0

    def of(self, text: str) -> NDArray[np.float64]:
        """Class probabilities."""
        probabilities = [s.predictor.of(s.predictor.features(text)) for s in self._students]
        if self._averaged:
            mean: NDArray[np.float64] = np.mean(probabilities, axis=0)
            return mean
        top = probabilities[0]
        for own in probabilities[1:]:
            top = pooled(own, top, self._weight)
        return top

    def learn(self, text: str, label: int) -> None:
        """One LLM label; -1 teaches nothing."""
        self._age += 1
        for s in self._students if label >= 0 else ():
            s.learn(s.predictor.features(text), label, self._age)

    def settle(self) -> None:
        """To the optimum of what they were taught, where a student has one."""
        for s in self._students:
            if isinstance(s, EncodedStudent):
                s.begin_again(0)


def online(stream: Recorded, taught: Taught, asks: Asks, own: bool = False) -> Replayed:
    """The student answers unless `asks`; it learns from the LLM as in the cascade.

    `own`: the LLM's labels teach, but every answer is the student's.
    """
    answers, by = np.empty(len(stream), dtype=np.int64), np.empty(len(stream), dtype=np.int64)
    calls = 0
    for t, text in enumerate(stream.texts):
        probabilities = taught.of(text)
        answers[t], by[t] = int(probabilities.argmax()), 0
        if not asks(t, probabilities):
            continue
        calls += 1
        if not own:
            answers[t], by[t] = stream.expert[t], LLM
        taught.learn(text, int(stream.expert[t]))
    return Replayed(answers, by, calls)


def first(calls: int) -> Asks:
    """Front-loading: the first queries, and no more."""
    return lambda t, _: t < calls


def at_random(calls: int, queries: int, seed: int, falling: bool = False) -> Asks:
    """Just so many queries, drawn beforehand; `falling`: ever less likely, down to nothing at the end."""
    rng = np.random.default_rng([seed, 8])
    weights = np.arange(queries, 0, -1, dtype=np.float64) if falling else np.ones(queries)
    drawn = set(rng.choice(queries, size=calls, replace=False, p=weights / weights.sum()).tolist())
    return lambda t, _: t in drawn


class ByMargin:
    """Margin sampling: asks where the two likeliest classes are near each other, after `first` labels.

    The threshold is held to the budget as the cascade's price is, by the same dual steps; `calls` are never exceeded,
    and none is left at the end.
    """

    def __init__(self, calls: int, queries: int, first: int, step: float) -> None:
        self._left, self._queries, self._first = calls, queries, first
        self._budget = LlmBudget(calls / queries, queries, step)

    def __call__(self, t: int, probabilities: NDArray[np.float64]) -> bool:
        """See Asks."""
        second, likeliest = np.sort(probabilities)[-2:]
        unsure = 1.0 - (likeliest - second)
        due = t < self._first or unsure > self._budget.price or self._queries - t <= self._left
        called = bool(due and self._left > 0)
        self._budget.observe(called, steer=t >= self._first)
        self._left -= called
        return called


def distilled(stream: Recorded, taught: Taught, other: Recorded, calls: int) -> Replayed:
    """A student that was taught offline, on so many LLM labels of the other half, answers everything."""
    for text, label in zip(other.texts[:calls], other.expert[:calls], strict=True):
        taught.learn(text, int(label))
    taught.settle()
    labels = [int(taught.of(text).argmax()) for text in stream.texts]
    return Replayed(np.array(labels), np.zeros(len(stream), dtype=np.int64), calls)
