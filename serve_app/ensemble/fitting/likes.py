"""On which queries a member is more often right: learned from a query's numbers, its task guess and its words."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Final

import numpy as np
from numpy.typing import NDArray

from serve_app.arrays import Floats
from serve_app.ensemble.agreement import LikeQueries
from serve_app.ensemble.fitting.answers import Answers
from serve_app.ensemble.fitting.votes import calibration
from serve_app.learning.features import NUMERIC, Reading, read
from serve_app.learning.logistic import fit_soft, log_loss

_PENALTY: Final = 30.0
"""Of the weight of a standardised number or a task."""
_WORD_STRENGTH: Final = 1.0
"""Inverse penalty of a word's weight, where a query's words are a unit vector."""
_SURE: Final = 2.0
"""Standard errors by which accuracies on like queries must lower the log loss, out of fold, to be used: the better of
two models is taken, for each of several members."""
_LEAST_TASK: Final = 20
"""Queries of a guessed task below which it has no weight of its own."""
_MOST_WORDS, _LEAST_WORD = 1000, 4
"""The most frequent words, each in so many queries at least."""
_MOST: Final = 4.0
_DIGITS: Final = 5
"""Of a word's weight in a plan."""


@dataclass(frozen=True, slots=True)
class _Columns:
    """Queries as rows `x` [n, numbers + tasks + words], in that order."""

    x: Floats
    mean: Floats
    deviation: Floats
    tasks: tuple[str, ...]
    words: tuple[str, ...]


def like_queries(
    answers: Answers, folds: NDArray[np.int64], seen: Sequence[Reading] | None = None
) -> tuple[dict[str, LikeQueries], dict[str, Floats]]:
    """Of each member whose accuracy depends on the query surely: the model of that, and out-of-fold offsets [n].

    Words are used for a member where they lower the log loss out of fold. Raises DependencyError without scikit-learn.
    """
    readings = seen if seen is not None else [read(query) for query in answers.queries]
    forms = [_columns(readings, words=False), _columns(readings, words=True)]
    likes, offsets = {}, {}
    for name in answers.names:
        y = answers.alone(name)
        base = np.empty(len(y))
        for fold in np.unique(folds):
            base[folds == fold] = _all_alike(y[folds != fold])
        guesses = [_out_of_fold(form.x, y, folds) for form in forms]
        best = int(np.argmin([log_loss(guess, y) for guess in guesses]))
        guess = guesses[best]
        gain = np.logaddexp(0.0, base) - y * base - np.logaddexp(0.0, guess) + y * guess
        if gain.mean() <= max(0.0, _SURE * gain.std() / sqrt(len(gain))):
            continue
        likes[name] = _model(forms[best], y)
        offsets[name] = guess - base
    return likes, offsets


def _columns(readings: Sequence[Reading], words: bool) -> _Columns:
    numeric = np.array([r.numeric for r in readings], dtype=np.float64).reshape(-1, len(NUMERIC))
    mean, deviation = numeric.mean(0), numeric.std(0)
    deviation = np.where(deviation < 1e-9, 1.0, deviation)
    tasks = [r.task for r in readings]
    known = sorted(task for task in set(tasks) if tasks.count(task) >= _LEAST_TASK)
    standard = np.clip((numeric - mean) / deviation, -_MOST, _MOST)
    x = np.column_stack([standard, *[np.array([t == task for t in tasks], dtype=np.float64) for task in known]])
    x *= _scale()
    counts = Counter(word for r in readings for word in set(r.tokens)) if words else Counter[str]()
    frequent = sorted(counts, key=lambda word: (-counts[word], word))[:_MOST_WORDS]
    kept = tuple(word for word in frequent if counts[word] >= _LEAST_WORD)
    place = {word: at for at, word in enumerate(kept)}
    said = np.zeros((len(readings), len(kept)))
    for row, reading in enumerate(readings):
        said[row, [place[word] for word in set(reading.tokens) if word in place]] = 1.0
    said /= np.sqrt(np.maximum(said.sum(1, keepdims=True), 1.0))
    return _Columns(np.hstack([x, said]), mean, deviation, tuple(known), kept)


def _scale() -> float:
    """By which numbers and tasks are smaller than their weights are penalised for, see `_PENALTY`."""
    return 1.0 / sqrt(_PENALTY * _WORD_STRENGTH)


def _out_of_fold(x: Floats, y: Floats, folds: NDArray[np.int64]) -> Floats:
    """Log-odds of each query by a fit on the other folds, shape [n]."""
    found = np.empty(len(y))
    for fold in np.unique(folds):
        inside = folds == fold
        weights, bias = fit_soft(x[~inside], y[~inside], _WORD_STRENGTH)
        found[inside] = x[inside] @ weights + bias
    return found


def _all_alike(y: Floats) -> float:
    """Log-odds of a member that is right on all queries alike: not smoothed, or it would lose to any fit."""
    return calibration(np.zeros(len(y)), y).bias


def _model(form: _Columns, y: Floats) -> LikeQueries:
    weights, bias = fit_soft(form.x, y, _WORD_STRENGTH)
    numbers, tasks = len(NUMERIC), len(NUMERIC) + len(form.tasks)
    return LikeQueries(
        bias - _all_alike(y),
        tuple((weights[:numbers] * _scale()).tolist()),
        tuple(form.mean.tolist()),
        tuple(form.deviation.tolist()),
        dict(zip(form.tasks, (weights[numbers:tasks] * _scale()).tolist(), strict=True)),
        {word: round(w, _DIGITS) for word, w in zip(form.words, weights[tasks:].tolist(), strict=True)},
    )
