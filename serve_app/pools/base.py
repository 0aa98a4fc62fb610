"""The contract of every pool, and the two forms in which an answer crosses it.

Tokens cross as the bytes of OpenAI's own wire format, serialised once where the engine is; whoever needs to look
inside (usage, finish, log-probabilities) asks the frame, which parses on first use.
"""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import orjson

from serve_app.types import Capabilities, Price, Query, Usage


@dataclass(frozen=True, slots=True)
class Call:
    """Who asks: the decision's id names the answer (`chatcmpl-<id>`), the deadline is on the monotonic clock.

    `may_wait`: with no replica there, wait for one to come up rather than fail at once. A strategy that can turn to
    another pool says no.
    """

    id: str
    request_id: str
    created_s: int
    deadline_s: float | None = None
    may_wait: bool = True


@dataclass(frozen=True)
class Frame:
    """One or more whole SSE events, as received (`data: {...}` and a blank line each)."""

    data: bytes

    @cached_property
    def events(self) -> list[dict[str, Any]]:
        """The events' JSON bodies, `[DONE]` left out. Raises orjson.JSONDecodeError on a broken event."""
        bodies = (e[5:].strip() for e in self.data.split(b"\n\n") if e.startswith(b"data:"))
        return [orjson.loads(b) for b in bodies if b != b"[DONE]"]


@dataclass(frozen=True)
class Answer:
    """A whole answer: the bytes of OpenAI's response object, as received."""

    body: bytes

    @cached_property
    def parsed(self) -> dict[str, Any]:
        """The response object. Raises orjson.JSONDecodeError if the upstream sent no JSON."""
        parsed: dict[str, Any] = orjson.loads(self.body)
        return parsed

    @property
    def usage(self) -> Usage:
        """Tokens read and written, zero where the upstream gave none."""
        return usage_from_openai(self.parsed.get("usage"))


def usage_from_openai(usage: dict[str, Any] | None) -> Usage:
    """Usage from OpenAI's object."""
    usage = usage or {}
    return Usage(usage.get("prompt_tokens") or 0, usage.get("completion_tokens") or 0)


@dataclass(frozen=True, slots=True)
class PoolLoad:
    """Load as last known: replicas that answer, requests in flight from this Gateway, and queued in replicas.

    `places`: requests that those replicas serve at once; 0 where that is not known.
    """

    replicas: int
    in_flight: int
    waiting: int = 0
    places: int = 0


class Pool(Protocol):
    """Engines of one kind as one thing that answers.

    Errors of `stream` and `complete`: RequestError family as the engine raised it; Overloaded or PoolUnavailable
    (with retry_after_s) when nobody can take the query; UpstreamError when a replica died and, before the first
    byte, no other could answer. Closing the iterator cancels the model.
    """

    name: str
    model: str
    price: Price

    @property
    def capabilities(self) -> Capabilities:
        """What the pool's engine can honour."""

    def load(self) -> PoolLoad:
        """Never waits."""

    def stream(self, query: Query, call: Call) -> AsyncGenerator[Frame, None]:
        """The answer as SSE frames: deltas, a finish chunk for every choice, one usage chunk, `[DONE]` left out."""
        ...

    async def complete(self, query: Query, call: Call) -> Answer:
        """The answer at once."""

    async def aclose(self) -> None:
        """Close connections, or the engine if it is ours."""
