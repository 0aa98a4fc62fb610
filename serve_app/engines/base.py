"""The contract of every engine. One conformance suite (tests/conformance) holds all of them to it."""

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from serve_app.types import Capabilities, Chunk, Query


@dataclass(frozen=True, slots=True)
class EngineHealth:
    """State of an engine: `running` and `waiting` are requests; `detail` says why it is not ok."""

    ok: bool
    running: int = 0
    waiting: int = 0
    detail: str = ""
    figures: Mapping[str, float] = field(default_factory=dict)
    adapters: tuple[str, ...] = ()
    """Adapters in memory: requests for them are best sent here."""


class Engine(Protocol):
    """Runs one model. Many `stream` calls run at once and share its forward passes."""

    model: str
    """The id callers see."""
    capabilities: Capabilities

    async def start(self) -> None:
        """Load the model; returns when it can answer. Raises ConfigError if it cannot be loaded."""

    def stream(self, query: Query) -> AsyncGenerator[Chunk, None]:
        """Answer a query, piece by piece, choices interleaved.

        Every choice ends with a chunk that has a finish reason; the last chunk carries usage. Greedy decoding at
        temperature 0; the same seed gives the same text. Closing or cancelling the iterator stops the model and
        frees its slot at the next step.

        Raises:
            ContextLengthExceeded: the prompt leaves no room for an answer.
            ModelNotFound: the engine serves adapters, and none of the query's name.
            UnsupportedParameter: the query needs a capability that this engine lacks.
            Overloaded: the engine's own queue is full.
            UpstreamError: the model failed.
        """
        ...

    async def count_tokens(self, query: Query) -> int:
        """Tokens of the prompt that the model would read, whether or not they fit its context. Runs no model.

        Raises RequestError for what `stream` refuses by the prompt, PoolUnavailable if the engine does not run.
        """
        ...

    def health(self) -> EngineHealth:
        """Cheap; no forward pass."""

    def metrics(self) -> str:
        """The engine's own metrics in Prometheus' text format; empty if it has none."""

    async def aclose(self) -> None:
        """Stop all requests and free the model. Idempotent."""
