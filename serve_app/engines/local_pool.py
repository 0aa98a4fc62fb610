"""A Pool over an Engine in this process: no replicas, no HTTP, the same bytes. For tests, notebooks and the CLI."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator

from serve_app.engines.base import Engine
from serve_app.engines.bursts import Bursts
from serve_app.errors import DeadlineExceeded, JethroError, UpstreamError
from serve_app.pools.base import PoolLoad
from serve_app.tracing.model_calls import begin_call, ending
from serve_app.types import Capabilities, Chunk, Price, Query, Usage
from serve_app.wire.encoding import StreamEncoder, encode_answer
from serve_app.wire.frames import Answer, Call, Frame

logger = logging.getLogger("jethro.engines")


class LocalPool:
    """Owns a started engine and closes it. The engine's own bounds are the only queue."""

    def __init__(self, name: str, engine: Engine, price: Price | None = None) -> None:
        self.name = name
        self.model = engine.model
        self.price = price or Price()
        self._engine, self._in_flight = engine, 0

    @property
    def capabilities(self) -> Capabilities:
        """The engine's."""
        return self._engine.capabilities

    def load(self) -> PoolLoad:
        """One replica if the engine is well, none otherwise."""
        health = self._engine.health()
        return PoolLoad(replicas=int(health.ok), in_flight=self._in_flight, waiting=health.waiting)

    async def stream(self, query: Query, call: Call) -> AsyncGenerator[Frame, None]:
        """See Pool.stream; chunks that are ready together share a frame."""
        encoder = StreamEncoder(query, model=self.model, answer_id=call.id, created=call.created_s)
        bursts, span = Bursts(self._engine.stream(query)), begin_call(query, call, self.name, self.model, stream=True)
        self._in_flight += 1
        with ending(span):
            try:
                while not (bursts.ended or encoder.complete):
                    events = encoder.encode_all(await self._next(bursts, call))
                    if encoder.complete or (bursts.ended and not encoder.unfinished):
                        events += encoder.usage(encoder.last_usage or Usage())
                    if events:
                        frame = Frame(events)
                        if span is not None:
                            span.frame(frame)
                        yield frame
                if encoder.unfinished:
                    raise UpstreamError(f"model {self.model} ended before all choices were finished")
            finally:
                self._in_flight -= 1
                await bursts.aclose()

    async def complete(self, query: Query, call: Call) -> Answer:
        """See Pool.complete."""
        span = begin_call(query, call, self.name, self.model)
        with ending(span):
            answer = await self._complete(query, call)
            if span is not None:
                span.answer(answer)
            return answer

    async def _complete(self, query: Query, call: Call) -> Answer:
        bursts = Bursts(self._engine.stream(query))
        chunks: list[Chunk] = []
        self._in_flight += 1
        try:
            while not bursts.ended:
                chunks += await self._next(bursts, call)
        finally:
            self._in_flight -= 1
            await bursts.aclose()
        if sum(c.finish_reason is not None for c in chunks) != query.sampling.n:
            raise UpstreamError(f"model {self.model} ended before all choices were finished")
        return Answer(encode_answer(query, chunks, model=self.model, answer_id=call.id, created=call.created_s))

    async def count_tokens(self, query: Query, call: Call) -> int | None:
        """See CountingPool."""
        return await self._engine.count_tokens(query)

    async def aclose(self) -> None:
        """Closes the engine."""
        await self._engine.aclose()

    async def _next(self, bursts: Bursts[Chunk], call: Call) -> list[Chunk]:
        """The next chunks, before the deadline; whatever else the engine raises is an UpstreamError."""
        left_s = None if call.deadline_s is None else call.deadline_s - time.monotonic()
        try:
            async with asyncio.timeout(left_s):
                return await bursts.next()
        except TimeoutError as e:
            raise DeadlineExceeded(f"model {self.model} was not done before the deadline") from e
        except JethroError:
            raise
        except Exception as e:
            logger.exception("the engine of model %s failed", self.model)
            raise UpstreamError(f"model {self.model} failed; the log says why") from e
