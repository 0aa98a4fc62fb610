"""One call of a member of an ensemble, held until it is known whether its answer is shown.

A call may have several choices: the samples of a member, or as many as the caller requested. What is shown is the
pool's own answer; of one sample among several, the choice alone.
"""

import logging
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import Any

import orjson

from serve_app.ensemble.base import MemberCalls
from serve_app.errors import JethroError, UpstreamError
from serve_app.pools.base import Pool
from serve_app.types import Query, Step, Usage
from serve_app.wire.answers import AnswerReader
from serve_app.wire.frames import Answer, Call, Frame
from serve_app.wire.response_filter import ResponseFilter

logger = logging.getLogger("jethro.ensemble")


@dataclass(slots=True, eq=False)
class HeldCall:
    """A call of `member`; `run` makes it, and never raises but for a cancellation.

    `sent`: the query as the pool has it. `first`: the number of its first sample among the member's; `round`: of the
    plan. `error`: why there is no answer; `interrupted`: why it was cut off. `usage`: as a relay saw it.
    """

    member: MemberCalls
    pool: Pool
    sent: Query
    call: Call
    stream: bool
    first: int = 0
    round: int = 0
    reading: AnswerReader = field(init=False)
    answer: Answer | None = None
    frames: list[Frame] = field(default_factory=list)
    error: JethroError | None = None
    interrupted: str = ""
    usage: Usage | None = None
    ended_ms: float | None = None
    started: float = field(default_factory=perf_counter)

    def __post_init__(self) -> None:
        self.reading = AnswerReader(self.sent)

    @property
    def whole(self) -> bool:
        """Whether the answer is complete."""
        return self.error is None and not self.interrupted and self.reading.finished

    async def run(self) -> None:
        """Make the call and read the answer, or the error. A pool that breaks its contract is a pool that failed."""
        try:
            if self.stream:
                await self._stream()
            else:
                self.answer = await self.pool.complete(self.sent, self.call)
                self.reading.answer(self.answer)
        except JethroError as error:
            self.error = error
        except Exception:
            logger.exception("pool %s failed", self.pool.name)
            self.error = UpstreamError(f"{self.pool.model} failed; the log says why")
        finally:
            self.end()

    def end(self) -> None:
        """The call is over: its time is known."""
        if self.ended_ms is None:
            self.ended_ms = (perf_counter() - self.started) * 1e3

    async def _stream(self) -> None:
        async with aclosing(self.pool.stream(self.sent, self.call)) as frames:
            async for frame in frames:
                self.frames.append(frame)
                self.reading.frame(frame)
        if not self.reading.finished:
            raise UpstreamError(f"{self.pool.model} ended its stream without an answer")

    def step(self, reason: str, prompt_tokens: int, *, wasted: bool) -> Step:
        """The record of the call. One that was cut off reported no usage: its prompt counts `prompt_tokens`, and of its
        answer what was received.
        """
        ms = (perf_counter() - self.started) * 1e3 if self.ended_ms is None else self.ended_ms
        usage = self.usage or self.reading.usage
        if self.error is not None:
            reason, usage, wasted = f"failed: {self.error.code}", usage or Usage(), True
        usage = usage or Usage(prompt_tokens, self.reading.written)
        failed = self.error is not None
        cost_usd = self.pool.price.cost_usd(usage, self.sent.adapter)
        return Step(self.pool.name, reason, usage, cost_usd, ms, wasted, failed)

    @property
    def prompt_tokens(self) -> int:
        """As far as the pool has reported them."""
        usage = self.usage or self.reading.usage
        return usage.prompt_tokens if usage is not None else 0

    def filter_for(self, query: Query) -> ResponseFilter:
        """From what was sent to what the caller requested: they differ in log-probabilities, and otherwise in what
        leaves no trace in an answer.
        """
        sent = self.sent.sampling
        same = replace(query.sampling, logprobs=sent.logprobs, top_logprobs=sent.top_logprobs)
        return ResponseFilter(query, replace(query, sampling=same))

    def shown(self, query: Query, choice: int | None) -> Answer | Frame:
        """The held answer as the caller gets it: the pool's own bytes, or, of several samples, `choice` alone."""
        shown = self.filter_for(query)
        if self.answer is not None:
            whole = self.answer if choice is None else Answer(orjson.dumps(_alone(self.answer.parsed, choice)))
            return shown.answer(whole)
        if choice is None:
            return shown.frame(Frame(b"".join(frame.data for frame in self.frames)))
        events = [_alone(event, choice) for frame in self.frames for event in frame.events if _says(event, choice)]
        return shown.frame(Frame(b"".join(b"data: " + orjson.dumps(event) + b"\n\n" for event in events)))


def said_nothing(call: HeldCall) -> UpstreamError:
    """The failure of a call that ended without saying anything."""
    how = "returned an empty answer" if call.reading.finished else "ended its stream without an answer"
    return UpstreamError(f"{call.pool.model} {how}")


def _says(event: Mapping[str, Any], choice: int) -> bool:
    """Whether an event is about the choice, or about none, as usage is."""
    choices = event.get("choices")
    return not choices or any(one.get("index") == choice for one in choices)


def _alone(body: Mapping[str, Any], choice: int) -> dict[str, Any]:
    """The answer or event with this choice as its only one."""
    kept = [{**one, "index": 0} for one in body.get("choices") or () if one.get("index") == choice]
    return {**body, "choices": kept}
