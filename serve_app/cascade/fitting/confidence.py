"""The confidence model of one level: signals of its answers, combined if there are several, and calibrated."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from serve_app.arrays import Floats
from serve_app.cascade.base import Calibrator, Signal
from serve_app.cascade.signals.answer_scorer import AnswerScorer, fit_answer_scorer
from serve_app.cascade.signals.calibration import fit_calibrator
from serve_app.cascade.signals.combined import Combined, CostAware, fit_combined, fit_relative_cost
from serve_app.cascade.signals.tokens import (
    Brevity,
    Entropy,
    Margin,
    MeanLogprob,
    MinLogprob,
    Prior,
    QuantileLogprob,
    RecordedConfidence,
)
from serve_app.cascade.signals.tokens import SumLogprob as Sum
from serve_app.data.answers import AnswerEvidence
from serve_app.data.recorded import Recorded
from serve_app.errors import InsufficientData

NOT_TAKEN: Final = -1.0
"""In place of a probability where the signal is undefined: below every threshold, so that the chain escalates."""
LOGPROB_SIGNALS: Final[tuple[Signal, ...]] = (
    *(MeanLogprob(), MinLogprob(), QuantileLogprob(0.25), Sum(), Brevity()),
    *(Margin("worst"), Margin("mean"), Margin("first"), Entropy("worst"), Entropy("mean"), Entropy("first")),
)
"""All signals of log-probabilities."""


@dataclass(frozen=True, slots=True)
class ConfidencePlan:
    """Which signals, none of which needs a fit; several are combined. `scorer`: encoder of an answer scorer to add.

    `prefix`: read only the first so many tokens. `calibrator`: logistic, isotonic or blended. `cost_aware`: doubt per
    dollar of the next call (see CostAware), calibrated again.
    """

    signals: tuple[Signal, ...] = (*LOGPROB_SIGNALS, Prior())
    calibrator: str = "logistic"
    scorer: str | None = None
    prefix: int | None = None
    cost_aware: bool = False
    seed: int = 0


@dataclass(frozen=True, slots=True)
class ConfidenceModel:
    """A level's fitted signal and calibrator."""

    signal: Signal
    calibrator: Calibrator

    def probability(self, evidence: AnswerEvidence) -> float:
        """That the answer is correct; NOT_TAKEN where the signal is undefined."""
        value = self.signal.value(evidence)
        return NOT_TAKEN if np.isnan(value) else self.calibrator.probability(value)

    def probabilities(self, raw: Floats, answers: Sequence[AnswerEvidence]) -> Floats:
        """The same, shape [n], from `raw_values` [n, signals] of the plan's signals.

        `answers` are these answers, cut to the plan's prefix.
        """
        return probabilities(self.calibrator, signal_values(self.signal, raw, answers))


def opening(evidence: AnswerEvidence, tokens: int | None) -> AnswerEvidence:
    """The answer after its first `tokens`: unfinished if more would follow. None: the whole answer."""
    if tokens is None or not evidence.finished or not evidence.logprobs or len(evidence.logprobs) < tokens:
        return evidence
    first = evidence.logprobs[:tokens]
    return replace(evidence, text="".join(token.token for token in first), logprobs=first, finished=False)


def raw_values(signals: Sequence[Signal], answers: Sequence[AnswerEvidence], prefix: int | None = None) -> Floats:
    """Raw values [n, signals] of answers, or of their first tokens."""
    read = [opening(answer, prefix) for answer in answers]
    values = [[signal.value(answer) for signal in signals] for answer in read]
    return np.array(values, dtype=np.float64).reshape(len(read), len(signals))


def recorded_values(
    signals: Sequence[Signal],
    recorded: Recorded,
    model: int,
    prefix: int | None = None,
    confidence_is: str | None = None,
) -> Floats:
    """Raw values [n, signals] of a model's answers; those of the signal `confidence_is` as they were recorded."""
    raw = raw_values(signals, [row[model] for row in recorded.evidence], prefix)
    for column, signal in enumerate(signals):
        if signal.name == confidence_is and np.isfinite(recorded.confidence[:, model]).any():
            raw[:, column] = recorded.confidence[:, model]
    return raw


def check_defined(signals: Sequence[Signal], raw: Floats, model: str) -> None:
    """Raises InsufficientData if a signal is undefined for every answer of the model, raw values [n, signals]."""
    for signal, column in zip(signals, raw.T, strict=True):
        if not np.isfinite(column).any():
            raise InsufficientData(
                f"signal {signal.name} is undefined for every answer of {model}: {_remedy(signal)}, or choose "
                "another signal; where the file has a confidence, `--signals recorded` reads it, and `--confidence-is "
                f"{signal.name}` says that it is this signal"
            )


def _remedy(signal: Signal) -> str:
    """How to collect answers for which the signal is defined."""
    needs = signal.needs
    if isinstance(signal, RecordedConfidence):
        return "give a file with `conf` of each answer"
    if needs.samples:
        return f"collect answers with --samples {needs.samples}"
    if needs.verdicts:
        return f"collect answers with --verdicts {needs.verdicts}"
    if needs.prior is not None:
        return f"collect answers with --router {needs.prior}"
    if needs.logprobs:
        return "collect answers of a pool that returns log-probabilities"
    return "collect answers with a text"


def fit_confidence(
    plan: ConfidencePlan, raw: Floats, ok: Floats, answers: Sequence[AnswerEvidence], cost_usd: Floats
) -> tuple[ConfidenceModel, Floats]:
    """A model from raw values [n, signals] and qualities [n] of answers, and its probabilities [n] of them.

    `cost_usd` [n]: of the next call, for a cost-aware plan. Trained signals are calibrated on their values out of fold,
    and the probabilities are of these, so that thresholds found on them are not optimistic. Raises InsufficientData and
    DependencyError.
    """
    signals, values = plan.signals, raw
    if plan.scorer is not None:
        scorer, outside = _scorer(plan, answers, ok)
        signals, values = (*signals, scorer), np.column_stack([raw, outside])
    if len(signals) == 1:
        signal, known = signals[0], values[:, 0]
        if not np.isfinite(known).any():
            raise InsufficientData(
                f"signal {signal.name} is undefined for every answer: collect what it needs, or choose another"
            )
    else:
        signal, known = fit_combined(signals, values, ok, plan.seed)
    calibrator = fit_calibrator(plan.calibrator, known, ok)
    if plan.cost_aware:
        prompts = [answer.query.text for answer in answers]
        signal = CostAware(signal, calibrator, *fit_relative_cost(prompts, cost_usd))
        known = np.array([signal.of_value(v, len(p)) for v, p in zip(known.tolist(), prompts, strict=True)])
        calibrator = fit_calibrator("logistic", known, ok)
    return ConfidenceModel(signal, calibrator), probabilities(calibrator, known)


def signal_values(signal: Signal, raw: Floats, answers: Sequence[AnswerEvidence]) -> Floats:
    """Values [n] of a fitted signal."""
    if isinstance(signal, CostAware):
        inner = signal_values(signal.signal, raw, answers).tolist()
        return np.array([signal.of_value(v, len(a.query.text)) for v, a in zip(inner, answers, strict=True)])
    if isinstance(signal, AnswerScorer):
        return signal.values(answers)
    if isinstance(signal, Combined):
        if isinstance(signal.signals[-1], AnswerScorer):
            raw = np.column_stack([raw, signal.signals[-1].values(answers)])
        return np.array([signal.of_values(row) for row in raw.tolist()], dtype=np.float64)
    return raw[:, 0]


def probabilities(calibrator: Calibrator, values: Floats) -> Floats:
    """Of each value [n]; NOT_TAKEN for nan."""
    return np.array([NOT_TAKEN if np.isnan(v) else calibrator.probability(v) for v in values.tolist()])


def _scorer(plan: ConfidencePlan, answers: Sequence[AnswerEvidence], ok: Floats) -> tuple[AnswerScorer, Floats]:
    from serve_app.learning.encoder import load_encoder

    return fit_answer_scorer([opening(a, plan.prefix) for a in answers], ok, load_encoder(str(plan.scorer)), plan.seed)
