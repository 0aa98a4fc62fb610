"""Agreement models fitted on recorded answers, and what they say of each query by a fit that has not seen it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from serve_app.arrays import Floats, sigmoid
from serve_app.ensemble.agreement import Agreement, LikeQueries, VoteStage, columns, groups, log_length
from serve_app.ensemble.base import MemberCalls, Vote
from serve_app.ensemble.fitting.answers import Answers
from serve_app.learning.features import NUMERIC, Reading, read
from serve_app.learning.logistic import RidgeLogistic, fit_ridge_logistic, log_loss

PENALTY: Final = 5.0
"""Of the weights of votes, see `fit_ridge_logistic`: with ten columns and 200 queries they would follow noise."""
_LIKE_PENALTY: Final = 30.0
_SURE: Final = 1.0
"""Standard errors by which accuracies on like queries must lower the log loss, out of fold, to be used."""
_LEAST_TASK: Final = 20
"""Queries of a guessed task below which it has no weight of its own."""
_FLATTEST: Final = 0.05
"""Least slope of a calibration: a fit on noise must not turn the order around."""
_SIMILARITY: Final = 0.8
"""See `agreement.groups`, for free text."""
_MOST: Final = 4.0


@dataclass(frozen=True, slots=True)
class Judged:
    """Of a stage over n queries, by fits that have not seen them: the leading answer's `log_odds`, its calibrated
    probability `p` and its true `quality`, shape [n]; 0 where no member says anything.
    """

    stage: VoteStage
    log_odds: Floats
    p: Floats
    quality: Floats


@dataclass(slots=True)
class VoteFits:
    """Fits agreement models on the same answers and folds [n], each once."""

    answers: Answers
    folds: NDArray[np.int64]
    likes: Mapping[str, LikeQueries] = field(default_factory=dict)
    offsets: Mapping[str, Floats] = field(default_factory=dict)
    _judged: dict[tuple[MemberCalls, ...], Judged] = field(default_factory=dict)

    @property
    def similarity(self) -> float | None:
        """Of free texts; None where a form reads a value out of them."""
        return _SIMILARITY if self.answers.normalizer == "text" else None

    def judged(self, calls: Sequence[MemberCalls]) -> Judged:
        """The stage of these calls, cross-fitted, and as fitted on all."""
        key = tuple(sorted(calls, key=lambda call: call.name))
        if key not in self._judged:
            self._judged[key] = self._fit(key)
        return self._judged[key]

    def agreement(self, stages: Sequence[Sequence[MemberCalls]]) -> Agreement:
        """The model to serve, of the calls by the end of each round."""
        found = tuple(self.judged(calls).stage for calls in stages)
        members = {name for stage in found for name in stage.members}
        return Agreement(found, {n: like for n, like in self.likes.items() if n in members}, self.similarity)

    def _fit(self, calls: Sequence[MemberCalls]) -> Judged:
        stage = self._blank(calls)
        rows, x, quality = self._table(stage, calls)
        fold_of = self.folds[rows]
        raw = np.empty(len(rows))
        for fold in np.unique(self.folds):
            inside = fold_of == fold
            if inside.any():
                raw[inside] = fit_ridge_logistic(x[~inside], quality[~inside], PENALTY).log_odds(x[inside])
        log_odds, found = _leading(rows, raw, quality, len(self.answers))
        said = np.zeros(len(self.answers), dtype=bool)
        said[rows] = True
        curve = calibration(log_odds[said], found[said])
        final = fit_ridge_logistic(x, quality, PENALTY)
        slope = max(float(curve.weights[0]), _FLATTEST)
        stage = replace(stage, bias=final.bias, weights=tuple(final.weights.tolist()), slope=slope, shift=curve.bias)
        p = np.where(said, sigmoid(slope * log_odds + curve.bias), 0.0)
        return Judged(stage, np.where(said, log_odds, 0.0), p, found)

    def _blank(self, calls: Sequence[MemberCalls]) -> VoteStage:
        """The stage without weights, its lengths measured."""
        m, names = len(calls), self.answers.names
        lengths = [self.answers.tokens[names.index(call.pool)][:, : call.samples] for call in calls]
        logs = [np.array([log_length(t) for t in found[found > 0].tolist()] or [0.0]) for found in lengths]
        scales = tuple(float(found.std()) if found.std() > 1e-9 else 1.0 for found in logs)
        members = tuple(call.name for call in calls)
        return VoteStage(members, 0.0, (0.0,) * (3 * m + 1), tuple(float(found.mean()) for found in logs), scales)

    def _table(self, stage: VoteStage, calls: Sequence[MemberCalls]) -> tuple[NDArray[np.int64], Floats, Floats]:
        """One row for each distinct answer: its query, columns, and quality; see `returned_quality`."""
        rows, x, quality = [], [], []
        strengths = self.answers.strengths()
        for row in range(len(self.answers)):
            votes, good = self.answers.votes(row, calls)
            labels = groups(votes, self.similarity)
            offsets = {name: float(values[row]) for name, values in self.offsets.items()}
            for at in dict.fromkeys(labels):
                rows.append(row)
                x.append(columns(stage, votes, labels, at, offsets))
                quality.append(returned_quality(votes, good, [label == at for label in labels], strengths))
        width = 3 * len(stage.members) + 1
        return np.array(rows, dtype=np.int64), np.array(x).reshape(-1, width), np.array(quality)


def returned_quality(
    votes: Sequence[Vote], quality: Sequence[float], says: Sequence[bool], strengths: Mapping[str, float]
) -> float:
    """Mean quality of the answers, out of those that say the same, of the strongest member: one of them is returned."""
    strength = [strengths.get(vote.member.partition("/")[0], 0.0) for vote in votes]
    of = [(one, q) for one, q, said in zip(strength, quality, says, strict=True) if said]
    best = max(one for one, _ in of)
    found = [q for one, q in of if one == best]
    return sum(found) / len(found)


def calibration(log_odds: Floats, quality: Floats) -> RidgeLogistic:
    """The logistic curve of quality over log-odds, shape [n] each; weak pull to a slope of nothing."""
    return fit_ridge_logistic(log_odds[:, None], quality, 1.0)


def _leading(rows: NDArray[np.int64], log_odds: Floats, quality: Floats, n: int) -> tuple[Floats, Floats]:
    """Of each query the highest log-odds and the quality of that answer, shape [n]; the first of equal ones."""
    best, found = np.full(n, -np.inf), np.zeros(n)
    for row, value, good in zip(rows.tolist(), log_odds.tolist(), quality.tolist(), strict=True):
        if value > best[row]:
            best[row], found[row] = value, good
    return np.where(np.isfinite(best), best, 0.0), found


def like_queries(
    answers: Answers, folds: NDArray[np.int64], seen: Sequence[Reading] | None = None
) -> tuple[dict[str, LikeQueries], dict[str, Floats]]:
    """Of each member whose accuracy depends on the query surely: the model of that, and out-of-fold offsets [n]."""
    readings = seen if seen is not None else [read(query) for query in answers.queries]
    numeric = np.array([r.numeric for r in readings], dtype=np.float64).reshape(-1, len(NUMERIC))
    mean, deviation = numeric.mean(0), numeric.std(0)
    deviation = np.where(deviation < 1e-9, 1.0, deviation)
    tasks = [r.task for r in readings]
    known = sorted(task for task in set(tasks) if tasks.count(task) >= _LEAST_TASK)
    standard = np.clip((numeric - mean) / deviation, -_MOST, _MOST)
    x = np.column_stack([standard, *[np.array([t == task for t in tasks], dtype=np.float64) for task in known]])
    likes, offsets = {}, {}
    for name in answers.names:
        y = answers.alone(name)
        guess, base = np.empty(len(y)), np.empty(len(y))
        for fold in np.unique(folds):
            inside = folds == fold
            base[inside] = calibration(np.zeros(int((~inside).sum())), y[~inside]).bias
            guess[inside] = fit_ridge_logistic(x[~inside], y[~inside], _LIKE_PENALTY).log_odds(x[inside])
        gain = np.logaddexp(0.0, base) - y * base - np.logaddexp(0.0, guess) + y * guess
        if gain.mean() <= _SURE * gain.std() / np.sqrt(len(gain)) or log_loss(guess, y) >= log_loss(base, y):
            continue
        model = fit_ridge_logistic(x, y, _LIKE_PENALTY)
        bias = model.bias - calibration(np.zeros(len(y)), y).bias
        numbers, rest = model.weights[: len(NUMERIC)], model.weights[len(NUMERIC) :]
        likes[name] = LikeQueries(
            float(bias),
            tuple(numbers.tolist()),
            tuple(mean.tolist()),
            tuple(deviation.tolist()),
            dict(zip(known, rest.tolist(), strict=True)),
        )
        offsets[name] = guess - base
    return likes, offsets
