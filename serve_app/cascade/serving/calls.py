"""The calls that the confidence in one whole answer takes: the answer, further samples, then self-verifications.

Samples are drawn while the answer is written; verdicts need it. A further call that fails leaves the signal without
its result and the answer as it is. Cancelling `call_and_assess` cancels every call under it.
"""

import asyncio
from dataclasses import replace
from typing import Final

from serve_app.cascade.serving.confidence import assess, evidence_of
from serve_app.cascade.serving.stages import StageResult
from serve_app.data.answers import TEMPERATURE, parse_verdicts, verification_query
from serve_app.errors import JethroError, UpstreamError
from serve_app.pools.samples import answers_of
from serve_app.types import Query, Usage
from serve_app.wire.answers import AnswerReader, text_of

SAMPLE_TEMPERATURE: Final = TEMPERATURE
"""Of further samples where the caller's own temperature, 0, would make them all the same."""


async def call_and_assess(result: StageResult, prior: float | None, *, stream: bool) -> None:
    """Fill in `result`: answer or frames (`stream`), every call made, and the confidence. Raises as the pool does."""
    needs = result.stage.needs
    if needs.samples:
        result.samples = await _answer_and_samples(result, needs.samples, stream)
    else:
        await call_for_answer(result, stream=stream)
    result.record("confidence unknown", result.reading.usage or Usage())
    if needs.verdicts:
        verdicts = {}
        for index in result.reading.choices:
            query = verification_query(evidence_of(result, index), needs.verdicts, result.sent.sampling.seed)
            readings = await _choices(result, query, f"verdict{index}")
            verdicts[index] = parse_verdicts([s.text for reading in readings for s in reading.choices.values()])
        result.verdicts = verdicts
    result.confidence = await assess(result, prior)
    result.steps[0] = replace(result.steps[0], reason=str(result.confidence))


async def call_for_answer(result: StageResult, *, stream: bool) -> None:
    """Fill in answer or frames (`stream`), held whole. Raises as the pool does, UpstreamError for half an answer."""
    pool = result.stage.pool
    if not stream:
        result.answer = await pool.complete(result.sent, result.call)
        result.reading.answer(result.answer)
        return
    frames = pool.stream(result.sent, result.call)
    try:
        async for frame in frames:
            result.frames.append(frame)
            result.reading.frame(frame)
    finally:
        await frames.aclose()
    if not result.reading.finished:
        raise UpstreamError(f"{pool.model} ended its stream without an answer")


async def _answer_and_samples(result: StageResult, count: int, stream: bool) -> tuple[str, ...]:
    try:
        async with asyncio.TaskGroup() as group:
            samples = group.create_task(_samples(result, count))
            await call_for_answer(result, stream=stream)
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return samples.result()


async def _samples(result: StageResult, count: int) -> tuple[str, ...]:
    """Texts of further answers; fewer where the pool fails."""
    sampling = result.sent.sampling
    warm = sampling.temperature or SAMPLE_TEMPERATURE
    seed = None if sampling.seed is None else sampling.seed + 1
    more = replace(sampling, n=count, temperature=warm, seed=seed, logprobs=False, top_logprobs=0)
    readings = await _choices(result, replace(result.sent, sampling=more), "sample")
    return tuple(text_of(said) for reading in readings for said in reading.choices.values())


async def _choices(result: StageResult, query: Query, what: str) -> list[AnswerReader]:
    """`query.sampling.n` answers in one call, or in as many calls where the pool takes no n; none where it fails."""
    pool, call = result.stage.pool, result.call
    try:
        answers = await answers_of(pool, query, call, what)
        each = query if len(answers) == 1 else replace(query, sampling=replace(query.sampling, n=1))
        readings = [AnswerReader(each) for _ in answers]
        for reading, answer in zip(readings, answers, strict=True):
            reading.answer(answer)
    except JethroError as error:
        result.record(f"{what} failed: {error.code}", Usage(), further=True)
        return []
    read = sum(answer.usage.prompt_tokens for answer in answers)
    written = sum(answer.usage.completion_tokens for answer in answers)
    result.record(what, Usage(read, written), further=True)
    return readings
