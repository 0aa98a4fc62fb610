"""The judge of one level: signals of its answers, combined if there are several, and calibrated."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from serve_app.arrays import Floats
from serve_app.cascade.base import Calibrator, Needs, Signal
from serve_app.cascade.signals.answer_scorer import AnswerScorer, fit_answer_scorer
from serve_app.cascade.signals.calibration import fit_calibrator
from serve_app.cascade.signals.combined import Combined, CostAware, fit_combined, fit_relative_cost
from serve_app.cascade.signals.tokens import Brevity, Entropy, Margin, MeanLogprob, MinLogprob, Prior, QuantileLogprob
from serve_app.cascade.signals.tokens import SumLogprob as Sum
from serve_app.data.answers import AnswerEvidence
from serve_app.errors import InsufficientData

NOT_TAKEN: Final = -1.0
"""In the place of a probability where the signal cannot be told: below every threshold, so that the walk goes on."""
LOGPROB_SIGNALS: Final[tuple[Signal, ...]] = (
    *(MeanLogprob(), MinLogprob(), QuantileLogprob(0.25), Sum(), Brevity()),
    *(Margin("worst"), Margin("mean"), Margin("first"), Entropy("worst"), Entropy("mean"), Entropy("first")),
)
"""All that tokens tell."""


@dataclass(frozen=True, slots=True)
class JudgePlan:
    """Which signals, none of which needs a fit; `scorer`: the encoder of a trained answer scorer beside them.

    Several are combined. `prefix`: judge the first so many tokens only. `calibrator`: logistic or isotonic.
    `cost_aware`: by doubt per dollar of asking further (see `cost_aware`), calibrated in its turn.
    """

    signals: tuple[Signal, ...] = (*LOGPROB_SIGNALS, Prior())
    calibrator: str = "logistic"
    scorer: str | None = None
    prefix: int | None = None
    cost_aware: bool = False
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Judge:
    """A level's fitted signal and calibrator."""

    signal: Signal
    calibrator: Calibrator

    def probability(self, judged: AnswerEvidence) -> float:
        """That the answer is right; NOT_TAKEN where the signal cannot be told."""
        value = self.signal.value(judged)
        return NOT_TAKEN if np.isnan(value) else self.calibrator.probability(value)

    def probabilities(self, raw: Floats, judged: Sequence[AnswerEvidence]) -> Floats:
        """The same, shape [n], for raw values [n, signals] of the plan's signals, as `raw_values` gives them.

        `judged` are these answers, cut to the plan's prefix.
        """
        return probabilities(self.calibrator, _values(self.signal, raw, judged))


def opening(judged: AnswerEvidence, tokens: int | None) -> AnswerEvidence:
    """The answer as it stands after its first `tokens`: unfinished if more would come. None: the whole answer."""
    if tokens is None or not judged.finished or len(judged.logprobs) < tokens:
        return judged
    if not judged.logprobs:
        return judged
    first = judged.logprobs[:tokens]
    return replace(judged, text="".join(token.token for token in first), logprobs=first, finished=False)


def raw_values(signals: Sequence[Signal], judged: Sequence[AnswerEvidence], prefix: int | None = None) -> Floats:
    """Raw values [n, signals] of answers, or of their first tokens."""
    seen = [opening(j, prefix) for j in judged]
    values = [[signal.value(j) for signal in signals] for j in seen]
    return np.array(values, dtype=np.float64).reshape(len(seen), len(signals))


def check_told(signals: Sequence[Signal], raw: Floats, model: str) -> None:
    """Raises InsufficientData if a signal can be told of none of the model's answers, raw values [n, signals]."""
    for signal, column in zip(signals, raw.T, strict=True):
        if not np.isfinite(column).any():
            raise InsufficientData(
                f"signal {signal.name} can be told of no answer of {model}: {_mend(signal.needs)}, or take another"
            )


def _mend(needs: Needs) -> str:
    """How answers are collected of which a signal with these needs can be told."""
    if needs.samples:
        return f"collect answers with --samples {needs.samples}"
    if needs.verdicts:
        return f"collect answers with --verdicts {needs.verdicts}"
    if needs.prior is not None:
        return f"collect answers with --router {needs.prior}"
    if needs.logprobs:
        return "collect answers of a pool that gives log-probabilities"
    return "collect answers that say something"


def fit_judge(
    plan: JudgePlan, raw: Floats, ok: Floats, judged: Sequence[AnswerEvidence], cost_usd: Floats
) -> tuple[Judge, Floats]:
    """A judge from raw values [n, signals] and qualities [n] of answers, and its probabilities [n] of them.

    `cost_usd` [n]: of asking further, for a plan that is aware of it. What is trained is calibrated on its values out
    of fold, and these are what the probabilities given are of: thresholds found on them are not flattered. Raises
    InsufficientData and DependencyError.
    """
    signals, values = plan.signals, raw
    if plan.scorer is not None:
        scorer, outside = _scorer(plan, judged, ok)
        signals, values = (*signals, scorer), np.column_stack([raw, outside])
    if len(signals) == 1:
        signal, known = signals[0], values[:, 0]
        if not np.isfinite(known).any():
            raise InsufficientData(
                f"signal {signal.name} can be told of no answer: collect what it needs, or take another"
            )
    else:
        signal, known = fit_combined(signals, values, ok, plan.seed)
    calibrator = fit_calibrator(plan.calibrator, known, ok)
    if plan.cost_aware:
        prompts = [j.query.text for j in judged]
        signal = CostAware(signal, calibrator, fit_relative_cost(prompts, cost_usd))
        known = np.array([signal.of_value(v, len(p)) for v, p in zip(known.tolist(), prompts, strict=True)])
        calibrator = fit_calibrator("logistic", known, ok)
    return Judge(signal, calibrator), probabilities(calibrator, known)


def _values(signal: Signal, raw: Floats, judged: Sequence[AnswerEvidence]) -> Floats:
    """Values [n] of a fitted signal."""
    if isinstance(signal, CostAware):
        inner = _values(signal.signal, raw, judged).tolist()
        return np.array([signal.of_value(v, len(j.query.text)) for v, j in zip(inner, judged, strict=True)])
    if isinstance(signal, AnswerScorer):
        return signal.values(judged)
    if isinstance(signal, Combined):
        if isinstance(signal.signals[-1], AnswerScorer):
            raw = np.column_stack([raw, signal.signals[-1].values(judged)])
        return np.array([signal.of_values(row) for row in raw.tolist()], dtype=np.float64)
    return raw[:, 0]


def probabilities(calibrator: Calibrator, values: Floats) -> Floats:
    """Of each value [n]; NOT_TAKEN for nan."""
    return np.array([NOT_TAKEN if np.isnan(v) else calibrator.probability(v) for v in values.tolist()])


def _scorer(plan: JudgePlan, judged: Sequence[AnswerEvidence], ok: Floats) -> tuple[AnswerScorer, Floats]:
    from serve_app.learning.encoder import load_encoder

    return fit_answer_scorer([opening(j, plan.prefix) for j in judged], ok, load_encoder(str(plan.scorer)), plan.seed)
