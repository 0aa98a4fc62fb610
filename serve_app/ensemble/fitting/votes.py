"""Agreement models fitted on recorded answers, and what they say of each query by a fit that has not seen it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from serve_app.arrays import Floats, sigmoid
from serve_app.ensemble.agreement import Agreement, Expectation, LikeQueries, VoteStage, columns, groups, log_length
from serve_app.ensemble.base import MemberCalls, Vote
from serve_app.ensemble.fitting.answers import Answers
from serve_app.learning.logistic import RidgeLogistic, fit_ridge_logistic

PENALTY: Final = 5.0
"""Of the weights of votes, see `fit_ridge_logistic`: with ten columns and 200 queries they would follow noise."""
_FLATTEST: Final = 0.05
"""Least slope of a calibration: a fit on noise must not turn the order around."""
_SIMILARITY: Final = 0.8
"""See `agreement.groups`, for free text."""


@dataclass(frozen=True, slots=True)
class Judged:
    """Of a stage over n queries, by fits that have not seen them: the leading answer's `log_odds`, its calibrated
    probability `p` and its true `quality`, shape [n]; 0 where no member says anything. `leaders`: its form, "" there.
    """

    stage: VoteStage
    log_odds: Floats
    p: Floats
    quality: Floats
    leaders: tuple[str, ...]


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

    def agreement(
        self,
        stages: Sequence[Sequence[MemberCalls]],
        expectations: Sequence[tuple[Expectation, Expectation] | None] = (),
    ) -> Agreement:
        """The model to serve, of the calls by the end of each round; `expectations`: now and later, of each of them."""
        found = [self.judged(calls).stage for calls in stages]
        for at, expectation in enumerate(expectations):
            if expectation is not None:
                found[at] = replace(found[at], now=expectation[0], later=expectation[1])
        members = {name for stage in found for name in stage.members}
        likes = {name: like for name, like in self.likes.items() if name in members}
        return Agreement(tuple(found), likes, self.similarity)

    def liked(self, calls: Sequence[MemberCalls]) -> tuple[str, ...]:
        """The members of some calls whose accuracy depends on the query."""
        return tuple(dict.fromkeys(call.name for call in calls if call.name in self.offsets))

    def expectation(self, log_odds: Floats, quality: Floats, liked: Sequence[str]) -> tuple[Expectation, Floats]:
        """Of the quality [n] that is expected by what is known at a stage: as fitted on all, and out of fold, [n]."""
        x = np.column_stack([log_odds, *[self.offsets[name] for name in liked]])
        p = np.empty(len(x))
        for fold in np.unique(self.folds):
            inside = self.folds == fold
            p[inside] = sigmoid(fit_ridge_logistic(x[~inside], quality[~inside], 1.0).log_odds(x[inside]))
        model = fit_ridge_logistic(x, quality, 1.0)
        lead, *rest = model.weights.tolist()
        return Expectation(model.bias, lead, dict(zip(liked, rest, strict=True))), p

    def _fit(self, calls: Sequence[MemberCalls]) -> Judged:
        stage = self._blank(calls)
        rows, forms, x, quality = self._table(stage, calls)
        fold_of = self.folds[rows]
        raw = np.empty(len(rows))
        for fold in np.unique(self.folds):
            inside = fold_of == fold
            if inside.any():
                raw[inside] = fit_ridge_logistic(x[~inside], quality[~inside], PENALTY).log_odds(x[inside])
        at = _leading(rows, raw, len(self.answers))
        said = at >= 0
        log_odds, found = (np.append(values, 0.0)[at] for values in (raw, quality))
        curve = calibration(log_odds[said], found[said])
        final = fit_ridge_logistic(x, quality, PENALTY)
        slope = max(float(curve.weights[0]), _FLATTEST)
        stage = replace(stage, bias=final.bias, weights=tuple(final.weights.tolist()), slope=slope, shift=curve.bias)
        p = np.where(said, sigmoid(slope * log_odds + curve.bias), 0.0)
        return Judged(stage, log_odds, p, found, tuple(forms[i] if i >= 0 else "" for i in at.tolist()))

    def _blank(self, calls: Sequence[MemberCalls]) -> VoteStage:
        """The stage without weights, its lengths measured."""
        m, names = len(calls), self.answers.names
        lengths = [self.answers.tokens[names.index(call.pool)][:, : call.samples] for call in calls]
        logs = [np.array([log_length(t) for t in found[found > 0].tolist()] or [0.0]) for found in lengths]
        scales = tuple(float(found.std()) if found.std() > 1e-9 else 1.0 for found in logs)
        members = tuple(call.name for call in calls)
        return VoteStage(members, 0.0, (0.0,) * (3 * m + 1), tuple(float(found.mean()) for found in logs), scales)

    def _table(
        self, stage: VoteStage, calls: Sequence[MemberCalls]
    ) -> tuple[NDArray[np.int64], list[str], Floats, Floats]:
        """One row for each distinct answer: its query, form, columns, and quality; see `returned_quality`."""
        rows, forms, x, quality = [], [], [], []
        strengths = self.answers.strengths()
        for row in range(len(self.answers)):
            votes, good = self.answers.votes(row, calls)
            labels = groups(votes, self.similarity)
            offsets = {name: float(values[row]) for name, values in self.offsets.items()}
            for at in dict.fromkeys(labels):
                rows.append(row)
                forms.append(votes[at].answer)
                x.append(columns(stage, votes, labels, at, offsets))
                # of near-duplicates the first one's form is returned, as it is served
                says = [vote.answer == votes[at].answer for vote in votes]
                quality.append(returned_quality(votes, good, says, strengths))
        width = 3 * len(stage.members) + 1
        return np.array(rows, dtype=np.int64), forms, np.array(x).reshape(-1, width), np.array(quality)


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


def _leading(rows: NDArray[np.int64], log_odds: Floats, n: int) -> NDArray[np.int64]:
    """Of each query the position of its highest log-odds, shape [n], the first of equal ones; -1 without any."""
    found = np.full(n, -1, dtype=np.int64)
    for at, (row, value) in enumerate(zip(rows.tolist(), log_odds.tolist(), strict=True)):
        if found[row] < 0 or value > log_odds[found[row]]:
            found[row] = at
    return found
