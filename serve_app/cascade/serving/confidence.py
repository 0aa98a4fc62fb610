"""Judges what a level said: the signal of each choice, its calibrated probability, and the weakest of them.

A tool call is judged as its text, and only if it could be made at all; log-probabilities are the model's own.
"""

import logging
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter

import orjson

from serve_app.cascade.base import Level, Signal
from serve_app.cascade.signals.answer_scorer import AnswerScorer
from serve_app.cascade.signals.specs import parts_of
from serve_app.data.answers import AnswerEvidence
from serve_app.types import Query
from serve_app.wire.answers import Reading, Said

logger = logging.getLogger("jethro.cascade")


@dataclass(frozen=True, slots=True)
class Further:
    """What was asked beside the answer: more samples of the same model, its verdicts by choice, the router's score."""

    samples: tuple[str, ...] = ()
    verdicts: Mapping[int, tuple[float, ...]] = field(default_factory=dict)
    prior: float | None = None


@dataclass(frozen=True, slots=True)
class Judgement:
    """Of one level's answer. `value` is nan where the signal told nothing; `why` says what ruled the answer out.

    `threshold` is nan where it is not a threshold that decides.
    """

    pool: str
    signal: str
    value: float
    probability: float
    threshold: float
    ms: float
    why: str = ""

    @property
    def accepted(self) -> bool:
        """Whether the answer is taken."""
        return not self.why and self.probability >= self.threshold

    def __str__(self) -> str:
        if self.why:
            return self.why
        if math.isnan(self.value):
            return f"{self.signal} tells nothing"
        if math.isnan(self.threshold):
            return f"{self.signal} {self.value:.4g}, right with {self.probability:.3f}"
        sign = ">=" if self.accepted else "<"
        return f"{self.signal} {self.value:.4g}, right with {self.probability:.3f} {sign} {self.threshold:.3f}"


def judge(level: Level, query: Query, reading: Reading, further: Further, tokens: int | None = None) -> Judgement:
    """The judgement of a level that has a signal. `tokens`: only so many first tokens are judged of a longer answer.

    Of several choices the one least likely to be right counts: all of them go to the caller.
    """
    started = perf_counter()
    signal, calibrator = level.signal, level.calibrator
    assert signal is not None and calibrator is not None
    value, probability, why = math.nan, math.inf, ""
    for index, said in reading.choices.items():
        why = why or impossible_call(said, query)
        judged = judged_of(query, said, further, index, tokens)
        try:
            found = float(signal.value(judged))
            chance = calibrator.probability(found)
            chance = 0.0 if math.isnan(chance) else chance
        except Exception:  # an answer must not be lost for a judge that fails; the level above answers
            logger.exception("signal %s of level %s failed", signal.name, level.pool)
            found, chance = math.nan, 0.0
        if chance < probability:
            value, probability = found, chance
    if math.isnan(value) or not math.isfinite(probability):
        probability = 0.0
    ms = (perf_counter() - started) * 1e3
    return Judgement(level.pool, signal.name, value, probability, level.threshold, ms, why)


def text_of(said: Said) -> str:
    """A choice as text: what it says, then each tool call as `name(arguments)`."""
    calls = [f"{call['name']}({call['arguments']})" for _, call in sorted(said.calls.items())]
    return "\n".join([*([said.text] if said.text or not calls else []), *calls])


def impossible_call(said: Said, query: Query) -> str:
    """Why a finished choice's tool calls cannot be made: no such tool, or arguments that are no JSON object."""
    if not said.calls or said.finish_reason is None:
        return ""
    names = _names(query)
    for call in said.calls.values():
        if call["name"] not in names:
            return f"it calls {call['name'][:64]!r}, which is no tool"
        try:
            arguments = orjson.loads(call["arguments"] or "{}")
        except orjson.JSONDecodeError:
            arguments = None
        if not isinstance(arguments, dict):
            return f"its arguments for {call['name'][:64]} are no JSON object"
    return ""


def _names(query: Query) -> Collection[str]:
    return {str((tool.get("function") or {}).get("name")) for tool in query.tools}


def is_slow(signal: Signal) -> bool:
    """Whether it computes for longer than an event loop should wait: encodes text."""
    return any(isinstance(part, AnswerScorer) for part in parts_of(signal))


def judged_of(query: Query, said: Said, further: Further, index: int = 0, tokens: int | None = None) -> AnswerEvidence:
    """One choice as signals see it, its first `tokens` only where it has more."""
    text, logprobs, finished = text_of(said), tuple(said.logprobs), said.finish_reason is not None
    if tokens is not None and said.tokens > tokens:
        text, logprobs, finished = said.opening(tokens), logprobs[:tokens], False
    return AnswerEvidence(
        query, text, logprobs, finished, further.samples, further.verdicts.get(index, ()), further.prior
    )


def features_of(judgements: Sequence[Judgement], prior: float | None) -> dict[str, float]:
    """What a Decision tells of the judgements, JSON-ready; a signal that told nothing is left out."""
    told = {} if prior is None else {"prior": round(prior, 6)}
    for judgement in judgements:
        if math.isfinite(judgement.value):
            told[f"{judgement.pool}:{judgement.signal}"] = round(judgement.value, 6)
        told[f"{judgement.pool}:probability"] = round(judgement.probability, 6)
        if math.isfinite(judgement.threshold):
            told[f"{judgement.pool}:threshold"] = round(judgement.threshold, 6)
    return told
