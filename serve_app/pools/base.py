"""The contract of every pool."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from serve_app.types import Capabilities, Price, Query
from serve_app.wire.frames import Answer, Call, Frame


@dataclass(frozen=True, slots=True)
class PoolLoad:
    """Load as last known: replicas to choose from, requests in flight from this Gateway, and queued in replicas.

    `places`: requests that those replicas serve at once; 0: unknown. `answers`: by a request or a probe of late;
    `fault`: why not, without any address. `started`: not still waiting for its first replica.
    """

    replicas: int
    in_flight: int
    waiting: int = 0
    places: int = 0
    answers: bool = True
    fault: str | None = None
    started: bool = True


class Pool(Protocol):
    """One or more engines with the same model, as one model that answers queries.

    Errors of `stream` and `complete`: RequestError family as the engine raised it; Overloaded or PoolUnavailable
    (with retry_after_s) when no replica can take the query; UpstreamError when a replica died and, before the first
    byte, no other could answer. Closing the iterator cancels the model.
    """

    name: str
    model: str
    price: Price

    @property
    def capabilities(self) -> Capabilities:
        """The capabilities of the pool's engine."""

    def load(self) -> PoolLoad:
        """Never waits."""

    def stream(self, query: Query, call: Call) -> AsyncGenerator[Frame, None]:
        """The answer as SSE frames: deltas, a finish chunk for every choice, one usage chunk, `[DONE]` left out."""
        ...

    async def complete(self, query: Query, call: Call) -> Answer:
        """The answer at once."""

    async def aclose(self) -> None:
        """Close connections, or the engine if it is ours."""


@runtime_checkable
class CountingPool(Protocol):
    """A pool whose engine may know how many tokens a prompt has."""

    async def count_tokens(self, query: Query, call: Call) -> int | None:
        """Tokens of the prompt as its model reads it; None where the engine cannot count. Errors as of `complete`."""
