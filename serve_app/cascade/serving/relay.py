"""Requests what a signal needs of a model, and relays the answer with what the caller requested."""

from collections.abc import AsyncGenerator

from serve_app.cascade.base import Needs
from serve_app.cascade.serving.stages import StageResult
from serve_app.types import Query
from serve_app.wire.answers import whole_answer
from serve_app.wire.frames import Answer, Frame, usage_from_openai
from serve_app.wire.response_filter import ResponseFilter, with_logprobs


def with_needs(query: Query, needs: Needs) -> Query:
    """The query with the log-probabilities that the signal needs; the same query if it needs none."""
    return with_logprobs(query, needs.top_logprobs) if needs.logprobs else query


async def relay(result: StageResult, query: Query, *, stream: bool) -> AsyncGenerator[Frame | Answer]:
    """The answer of `result` as `query` requests it: the frames held so far, then those still to come; or one Answer.

    An open stream passes through unparsed, and its usage is recorded at its end. Raises what the pool raises.
    """
    shown = ResponseFilter(query, result.sent)
    if stream:
        yield shown.frame(Frame(b"".join(frame.data for frame in result.frames)))
    if result.stream is not None:
        usage = next((frame.usage for frame in reversed(result.frames) if frame.usage), None)
        while (frame := await result.stream.next()) is not None:
            usage = frame.usage or usage
            if stream:
                yield shown.frame(frame)
            else:
                result.frames.append(frame)
        reason = "taken" if result.confidence is None else str(result.confidence)
        result.record(reason, usage_from_openai(usage))
    if stream:
        return
    if result.answer is not None:
        yield shown.answer(result.answer)
    else:
        frames = [shown.frame(frame) for frame in result.frames]
        yield whole_answer(frames, query, result.call, result.stage.pool.model)
