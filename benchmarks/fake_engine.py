"""FOR BENCHMARKS ONLY: an Engine whose model is nil, so that what is measured is everything around the model."""

import asyncio
from collections.abc import AsyncGenerator
from time import monotonic

from benchmarks.script import PROMPT_TOKENS, TOKEN, pace_s
from serve_app.config.adapters import AdaptersConfig
from serve_app.config.pools import PoolConfig
from serve_app.engines.base import EngineHealth
from serve_app.types import Capabilities, Chunk, Query, Usage


class FakeEngine:
    """Writes max_tokens tokens (default 1), one Chunk each, at the pace that the prompt requests.

    It gives way to the event loop before every token, as an engine that runs a model does, so every token is a write
    of its own. A paced token is due at a fixed time from the start: a late one does not shift those after it.
    """

    def __init__(self, model: str) -> None:
        self.model = model
        self.capabilities = Capabilities(logprobs=False)
        self._running = 0

    async def start(self) -> None:
        """Nothing to load."""

    async def stream(self, query: Query) -> AsyncGenerator[Chunk, None]:
        """See the class."""
        tokens = query.sampling.max_tokens or 1
        usage = Usage(PROMPT_TOKENS, tokens)
        gap_s, start_s = pace_s(query.text), monotonic()
        self._running += 1
        try:
            for token in range(1, tokens):
                await asyncio.sleep(max(0.0, start_s + token * gap_s - monotonic()) if gap_s else 0)
                yield Chunk(text=TOKEN)
            await asyncio.sleep(max(0.0, start_s + tokens * gap_s - monotonic()) if gap_s else 0)
            yield Chunk(text=TOKEN, finish_reason="stop", usage=usage)
        finally:
            self._running -= 1

    def health(self) -> EngineHealth:
        """Always well."""
        return EngineHealth(True, running=self._running)

    def metrics(self) -> str:
        """None."""
        return ""

    async def aclose(self) -> None:
        """Nothing to free."""


def build(name: str, pool: PoolConfig, adapters: AdaptersConfig | None = None) -> FakeEngine:
    """The engine factory for `serve_app.deployments`, in place of the real engines."""
    return FakeEngine(pool.model)
