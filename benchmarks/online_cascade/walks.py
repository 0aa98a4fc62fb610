"""Replays: who answered each query of a stream, and with what. The cascade, and each baseline with the same students."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.online_cascade.stream import Recorded
from serve_app.cascade.online.base import Labelled, StreamSpec
from serve_app.cascade.online.budget import Budget
from serve_app.cascade.online.learner import OnlineCascade
from serve_app.cascade.online.levels import Student, student

LLM = -1


@dataclass(frozen=True, slots=True)
class Replayed:
    """`answers` [n] are label indices, -1 for an answer that did not parse; `by` [n]: the level, or LLM."""

    answers: NDArray[np.int64]
    by: NDArray[np.int64]
    calls: int
    figures: Mapping[str, Any] = field(default_factory=dict)


def cascade(stream: Recorded, spec: StreamSpec, most: int | None = None) -> Replayed:
    """The cascade as a service would run it, policy and learner in one process; `most` caps its LLM calls."""
    learner = OnlineCascade(spec)
    rng = np.random.default_rng([spec.seed, 7])
    answers, by = np.empty(len(stream), dtype=np.int64), np.empty(len(stream), dtype=np.int64)
    trace = []
    for t, text in enumerate(stream.texts):
        walk = learner.policy().act(text, rng.random(1 + len(spec.levels)))
        learner.saw(walk)
        if walk.level is None:
            answers[t], by[t] = stream.expert[t], LLM
            told = int(stream.expert[t])
            learner.learn(Labelled(text, told if told >= 0 else None, walk))
        else:
            answers[t], by[t] = walk.label, walk.level
        trace.append(learner.figures()["drift_alarms"])
    figures = learner.figures() | {"alarms_at": [int(t) for t in np.flatnonzero(np.diff([0, *trace]) > 0)]}
    return Replayed(answers, by, int((by == LLM).sum()), figures)


Asks = Callable[[int, NDArray[np.float64]], bool]
"""Whether to ask the LLM, by place in the stream and the students' class probabilities [students, labels]."""


def online(stream: Recorded, spec: StreamSpec, asks: Asks, own: bool = False) -> Replayed:
    """Students (`spec.levels`, averaged) answer unless `asks`; they learn from the LLM as in the cascade.

    `own`: the LLM's labels teach, but every answer is the students'.
    """
    students: list[Student] = [student(kind, spec) for kind in spec.levels]
    answers, by = np.empty(len(stream), dtype=np.int64), np.empty(len(stream), dtype=np.int64)
    calls = 0
    for t, text in enumerate(stream.texts):
        rows = [s.predictor.features(text) for s in students]
        told = np.stack([s.predictor.of(row) for s, row in zip(students, rows, strict=True)])
        answers[t], by[t] = int(told.mean(axis=0).argmax()), len(spec.levels) - 1
        if not asks(t, told):
            continue
        calls += 1
        label = int(stream.expert[t])
        if not own:
            answers[t], by[t] = label, LLM
        for s, row in zip(students, rows, strict=True):
            if label >= 0:
                s.learn(row, label, calls)
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
        self._budget = Budget(calls / queries, queries, step)

    def __call__(self, t: int, told: NDArray[np.float64]) -> bool:
        ordered = np.sort(told.mean(axis=0))
        unsure = 1.0 - (ordered[-1] - ordered[-2])
        wanted = t < self._first or unsure > self._budget.price or self._queries - t <= self._left
        asked = bool(wanted and self._left > 0)
        self._budget.saw(asked, steer=t >= self._first)
        self._left -= asked
        return asked


def distilled(stream: Recorded, spec: StreamSpec, other: Recorded, calls: int) -> Replayed:
    """One level, fitted offline on so many LLM labels of the other half, answers everything."""
    taught = student(spec.levels[-1], spec)
    for age, (text, label) in enumerate(zip(other.texts[:calls], other.expert[:calls], strict=True), 1):
        if label >= 0:
            taught.learn(taught.predictor.features(text), int(label), age)
    taught.begin_again(0)
    told = [taught.predictor.of(taught.predictor.features(text)).argmax() for text in stream.texts]
    return Replayed(np.array(told), np.zeros(len(stream), dtype=np.int64), calls)
