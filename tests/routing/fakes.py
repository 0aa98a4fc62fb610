"""A pool with scripted answers and failures, and a router with a scripted score."""

import asyncio
from collections.abc import AsyncGenerator, Sequence

import numpy as np
from numpy.typing import NDArray

from serve_app.errors import JethroError
from serve_app.pools.base import PoolLoad
from serve_app.routing.artefact import Registered
from serve_app.routing.serving.served import ServedRouter
from serve_app.types import Capabilities, Message, Price, Query
from serve_app.wire.frames import Answer, Call, Frame

CALL = Call("d1", "r1", 1_700_000_000)
USAGE = b'{"prompt_tokens":7,"completion_tokens":2,"total_tokens":9}'


def query(text: str = "what is 1 + 1?", **rest: object) -> Query:
    return Query((Message("user", text),), **rest)  # type: ignore[arg-type]


def frames(word: str = "ok") -> list[Frame]:
    """Two deltas with OpenAI's `usage: null`, a finish, then usage, all as an upstream writes them."""
    return [
        Frame(b'data: {"choices":[{"index":0,"delta":{"content":"%s"}}],"usage":null}\n\n' % word.encode()),
        Frame(b'data: {"choices":[{"index":0,"delta":{"content":"\\"usage\\""}}],"usage":null}\n\n'),
        Frame(
            b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"usage":null}\n\n'
            b'data: {"choices":[],"usage":' + USAGE + b"}\n\n"
        ),
    ]


class FakePool:
    """Answers with its name; fails with `error` before the first frame, or with `cut` after it."""

    def __init__(
        self,
        name: str,
        *,
        error: JethroError | None = None,
        cut: JethroError | None = None,
        can: Capabilities | None = None,
        hang: bool = False,
        empty: bool = False,
    ) -> None:
        self.name = name
        self.model = f"m-{name}"
        self.price = Price(1.0, 10.0)
        self.capabilities = can or Capabilities()
        self.error, self.cut, self.hang, self.empty = error, cut, hang, empty
        self.asked = 0
        self.yielded = asyncio.Event()
        self.closed = 0

    def load(self) -> PoolLoad:
        return PoolLoad(1, self.asked - self.closed)

    async def stream(self, query: Query, call: Call) -> AsyncGenerator[Frame, None]:
        self.asked += 1
        try:
            if self.error:
                raise self.error
            if self.empty:
                return
            for position, frame in enumerate(frames(self.name)):
                if position and self.cut:
                    raise self.cut
                yield frame
                if self.hang:
                    self.yielded.set()
                    await asyncio.Event().wait()
        finally:
            self.closed += 1

    async def complete(self, query: Query, call: Call) -> Answer:
        self.asked += 1
        if self.error:
            raise self.error
        return Answer(b'{"model":"%s","usage":%s}' % (self.model.encode(), USAGE))

    async def aclose(self) -> None:
        return None


def served(router: object, threshold: float = 0.5) -> ServedRouter:
    """A router with no artefact that scores inline, as version and name `fake`."""
    return ServedRouter(Registered(router, threshold, "fake", name="fake"))  # type: ignore[arg-type]


class FakeRouter:
    """Scores every query alike."""

    name = "fake"

    def __init__(self, score: float) -> None:
        self.value = score

    def score(self, queries: Sequence[Query]) -> NDArray[np.float64]:
        return np.full(len(queries), self.value)

    def explain(self, query: Query) -> dict[str, float]:
        return {"bias": 1.5}
