"""The confidence in what a level answered: the signal of each choice, its calibrated probability, the lowest of them.

A tool call counts as its text, and only if it is valid; log-probabilities are the model's own.
"""

import asyncio
import logging
import math
from collections.abc import Sequence
from time import perf_counter

from serve_app.cascade.base import Signal
from serve_app.cascade.serving.stages import LevelConfidence, StageResult
from serve_app.cascade.signals.answer_scorer import AnswerScorer
from serve_app.cascade.signals.specs import parts_of
from serve_app.data.answers import AnswerEvidence
from serve_app.tracing.spans import spanned
from serve_app.wire.answers import invalid_call, text_of

logger = logging.getLogger("jethro.cascade")


async def assess(result: StageResult, prior: float | None, tokens: int | None = None) -> LevelConfidence:
    """`confidence_in` the answer so far, in a thread if the signal is slow."""
    signal = result.stage.level.signal
    with spanned("assess", {"jethro.pool": result.stage.pool.name}) as span:
        if signal is not None and is_slow(signal):
            found = await asyncio.to_thread(confidence_in, result, prior, tokens)
        else:
            found = confidence_in(result, prior, tokens)
        if span is not None:
            span.set({"jethro.score": found.probability, "jethro.threshold": found.threshold})
            span.set({"jethro.signal": found.signal, "jethro.accepted": found.accepted})
        return found


def confidence_in(result: StageResult, prior: float | None, tokens: int | None = None) -> LevelConfidence:
    """The confidence in the answer of a level that has a signal; `tokens`: in its first so many tokens.

    Of several choices the one least likely to be correct counts: the caller gets all of them.
    """
    started = perf_counter()
    level = result.stage.level
    signal, calibrator = level.signal, level.calibrator
    assert signal is not None and calibrator is not None
    value, probability, why = math.nan, math.inf, ""
    for index, said in result.reading.choices.items():
        why = why or invalid_call(said, result.sent)
        try:
            found = float(signal.value(evidence_of(result, index, prior, tokens)))
            chance = calibrator.probability(found)
            chance = 0.0 if math.isnan(chance) else chance
        except Exception:  # an answer must not be lost to a signal that fails; the level above answers
            logger.exception("signal %s of level %s failed", signal.name, level.pool)
            found, chance = math.nan, 0.0
        if chance < probability:
            value, probability = found, chance
    if math.isnan(value) or not math.isfinite(probability):
        probability = 0.0
    ms = (perf_counter() - started) * 1e3
    return LevelConfidence(level.pool, signal.name, value, probability, level.threshold, ms, why)


def evidence_of(
    result: StageResult, index: int = 0, prior: float | None = None, tokens: int | None = None
) -> AnswerEvidence:
    """One choice as signals see it, only its first `tokens` where it has more."""
    said = result.reading.choices[index]
    text, logprobs, finished = text_of(said), tuple(said.logprobs), said.finish_reason is not None
    if tokens is not None and said.tokens > tokens:
        text, logprobs, finished = said.opening(tokens), logprobs[:tokens], False
    verdicts = result.verdicts.get(index, ())
    return AnswerEvidence(result.sent, text, logprobs, finished, result.samples, verdicts, prior)


def is_slow(signal: Signal) -> bool:
    """Whether it computes for longer than an event loop should wait: encodes text."""
    return any(isinstance(part, AnswerScorer) for part in parts_of(signal))


def features_of(found: Sequence[LevelConfidence], prior: float | None) -> dict[str, float]:
    """The numbers that a Decision reports, JSON-ready; an undefined signal is left out."""
    features = {} if prior is None else {"prior": round(prior, 6)}
    for one in found:
        if math.isfinite(one.value):
            features[f"{one.pool}:{one.signal}"] = round(one.value, 6)
        features[f"{one.pool}:probability"] = round(one.probability, 6)
        if math.isfinite(one.threshold):
            features[f"{one.pool}:threshold"] = round(one.threshold, 6)
    return features
