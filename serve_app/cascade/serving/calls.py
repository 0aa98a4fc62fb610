"""The calls that one level's judged answer takes: the answer, further samples beside it, then self-verifications.

Samples are drawn while the answer is written; verdicts need it. A call that fails beside the answer only leaves the
judge without what it wanted. Whoever cancels this cancels every call under it.
"""

import asyncio
from dataclasses import dataclass, replace
from typing import Final

from serve_app.cascade.serving.confidence import Further, Judgement, is_slow, judge, judged_of, text_of
from serve_app.cascade.serving.run import Visit
from serve_app.data.answers import TEMPERATURE, parse_verdicts, verification_query
from serve_app.errors import JethroError, RequestError, UpstreamError
from serve_app.pools.base import Pool
from serve_app.types import Query, Usage
from serve_app.wire.answers import Reading
from serve_app.wire.frames import Answer, Call

SAMPLE_TEMPERATURE: Final = TEMPERATURE
"""Of further samples where the caller's own would make them all the same."""


@dataclass(frozen=True, slots=True)
class Asking:
    """How a level is asked: `query` is the caller's, `prior` the router's score; `stream`: frames are wanted."""

    query: Query
    call: Call
    stream: bool
    prior: float | None = None

    async def answered(self, visit: Visit) -> None:
        """Fills in the visit: answer or frames, steps and judgement. Raises what the pool raises."""
        further = Further(prior=self.prior)
        needs = visit.way.needs
        if needs.samples:
            samples = await self._beside_samples(visit, needs.samples)
            further = replace(further, samples=samples)
        else:
            await self._answer(visit)
        visit.spent("not judged", visit.reading.usage or Usage())
        if needs.verdicts:
            verdicts = await self._verdicts(visit, needs.verdicts)
            further = replace(further, verdicts=verdicts)
        visit.judgement = judgement = await self.judgement(visit, further)
        visit.steps[0] = replace(visit.steps[0], reason=str(judgement))

    async def judgement(self, visit: Visit, further: Further, tokens: int | None = None) -> Judgement:
        """What the level's judge says; in a thread if it takes its time."""
        level = visit.way.level
        if level.signal is not None and is_slow(level.signal):
            return await asyncio.to_thread(judge, level, self.query, visit.reading, further, tokens)
        return judge(level, self.query, visit.reading, further, tokens)

    async def _answer(self, visit: Visit) -> None:
        pool = visit.way.pool
        if not self.stream:
            visit.answer = await pool.complete(visit.sent, self.call)
            visit.reading.answer(visit.answer)
            return
        frames = pool.stream(visit.sent, self.call)
        try:
            async for frame in frames:
                visit.frames.append(frame)
                visit.reading.frame(frame)
        finally:
            await frames.aclose()
        if not visit.reading.finished:
            raise UpstreamError(f"{pool.model} ended its stream without an answer")

    async def _beside_samples(self, visit: Visit, wanted: int) -> tuple[str, ...]:
        try:
            async with asyncio.TaskGroup() as group:
                samples = group.create_task(self._samples(visit, wanted))
                await self._answer(visit)
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
        return samples.result()

    async def _samples(self, visit: Visit, wanted: int) -> tuple[str, ...]:
        """Texts of further answers; fewer where the pool fails."""
        sampling = self.query.sampling
        warm = sampling.temperature or SAMPLE_TEMPERATURE
        seed = None if sampling.seed is None else sampling.seed + 1
        more = replace(sampling, n=wanted, temperature=warm, seed=seed, logprobs=False, top_logprobs=0)
        readings = await _choices(visit, replace(self.query, sampling=more), self.call, "sample")
        return tuple(text_of(said) for reading in readings for said in reading.choices.values())

    async def _verdicts(self, visit: Visit, wanted: int) -> dict[int, tuple[float, ...]]:
        """What the model says of each choice when asked again."""
        found = {}
        for index, said in visit.reading.choices.items():
            query = verification_query(judged_of(self.query, said, Further()), wanted, self.query.sampling.seed)
            readings = await _choices(visit, query, self.call, f"verdict{index}")
            found[index] = parse_verdicts([s.text for reading in readings for s in reading.choices.values()])
        return found


async def _choices(visit: Visit, query: Query, call: Call, what: str) -> list[Reading]:
    """`query.sampling.n` answers in one call, or in as many calls where the pool takes no n; none where it fails."""
    pool = visit.way.pool
    try:
        try:
            answers = [await pool.complete(query, replace(call, id=f"{call.id}-{what}"))]
        except RequestError as error:
            if error.param != "n":
                raise
            answers = await _one_by_one(pool, query, call, what)
        readings = []
        for answer in answers:
            reading = Reading(query if len(answers) == 1 else replace(query, sampling=replace(query.sampling, n=1)))
            reading.answer(answer)
            readings.append(reading)
    except JethroError as error:
        visit.spent(f"{what} failed: {error.code}", Usage(), beside=True)
        return []
    read = sum(answer.usage.prompt_tokens for answer in answers)
    written = sum(answer.usage.completion_tokens for answer in answers)
    visit.spent(what, Usage(read, written), beside=True)
    return readings


async def _one_by_one(pool: Pool, query: Query, call: Call, what: str) -> list[Answer]:
    """As many calls as answers, at once."""
    sampling = query.sampling
    asked = [
        replace(query, sampling=replace(sampling, n=1, seed=None if sampling.seed is None else sampling.seed + i))
        for i in range(sampling.n)
    ]
    try:
        async with asyncio.TaskGroup() as group:
            calls = [
                group.create_task(pool.complete(one, replace(call, id=f"{call.id}-{what}{i}")))
                for i, one in enumerate(asked)
            ]
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return [task.result() for task in calls]
