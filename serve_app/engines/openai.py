"""Any OpenAI-compatible upstream as an Engine, for tests, notebooks and the command line.

Behind a Gateway the same settings make an HttpPool, which passes the upstream's bytes on; here they become Chunks.
"""

import random
from collections.abc import AsyncGenerator, Mapping
from typing import Any

import aiohttp
import orjson

from serve_app.config import secret
from serve_app.config.engines import OpenAIEngine as OpenAISettings
from serve_app.engines.base import EngineHealth
from serve_app.engines.openai_events import ChunkReader
from serve_app.engines.wire import query_to_openai
from serve_app.errors import PoolUnavailable, UnsupportedParameter, UpstreamError
from serve_app.pools.event_stream import EventStream
from serve_app.pools.retry import Backoff, retried
from serve_app.pools.upstream import Timeouts, Upstream, client_session
from serve_app.types import Capabilities, Chunk, Query

_PATHS = {"chat": "/chat/completions", "completions": "/completions"}
_RETRY_AFTER_S = 1.0


class OpenAIEngine:
    """Speaks to the URLs of the settings: each request to one drawn at random, each retry to the next.

    The key is read at `start`, by the name of its environment variable; it is in no error, log or repr.
    `env` and `rng` are for tests.
    """

    def __init__(
        self,
        model: str,
        settings: OpenAISettings,
        *,
        env: Mapping[str, str] | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self.model = model
        self.capabilities = Capabilities(
            logprobs=settings.logprobs,
            guided=settings.guided,
            tools=settings.tools,
            max_context_tokens=settings.max_context_tokens,
        )
        self._settings = settings
        self._upstream_model = settings.upstream_model or model
        self._env = env
        self._rng = rng or random.Random()
        self._backoff = Backoff(retries=settings.retries, rng=self._rng)
        self._session: aiohttp.ClientSession | None = None
        self._upstreams: list[Upstream] = []
        self._running = 0

    async def start(self) -> None:
        """Read the key and open the session; nothing is asked of the upstream. Raises ConfigError without the key."""
        settings = self._settings
        headers = {}
        if settings.api_key_env:
            key = secret(settings.api_key_env, used_by=f"model {self.model}: api_key_env", env=self._env)
            headers["authorization"] = f"Bearer {key}"
        timeouts = Timeouts(settings.connect_timeout_s, settings.first_byte_timeout_s, settings.idle_timeout_s)
        self._session = session = client_session()
        self._upstreams = [Upstream(url, session=session, headers=headers, timeouts=timeouts) for url in settings.urls]

    async def stream(self, query: Query) -> AsyncGenerator[Chunk, None]:
        """See Engine.stream. Tried again, `retries` times, as long as nothing has come."""
        self._check(query)
        body = orjson.dumps(query_to_openai(query, model=self._upstream_model, stream=True))
        reader = ChunkReader(query.endpoint, query.sampling.n)
        upstreams = self._in_turn()

        async def attempt(i: int) -> EventStream:
            return await upstreams[i % len(upstreams)].open_stream(_PATHS[query.endpoint], body)

        self._running += 1
        try:
            events = await retried(attempt, self._backoff)
            try:
                async for data in events:
                    for event in _parsed(data):
                        for chunk in reader.read(event):
                            yield chunk
            finally:
                await events.aclose()
            yield reader.end()
        finally:
            self._running -= 1

    async def embed(self, texts: list[str]) -> list[list[float]]:
        """One vector per text, by the upstream's /embeddings. Raises what the upstream answers if it has none."""
        body = orjson.dumps({"model": self._upstream_model, "input": texts})
        upstreams = self._in_turn()

        async def attempt(i: int) -> bytes:
            return await upstreams[i % len(upstreams)].post("/embeddings", body)

        answer = await retried(attempt, self._backoff)
        try:
            rows = sorted(orjson.loads(answer)["data"], key=lambda row: row["index"])
            return [[float(x) for x in row["embedding"]] for row in rows]
        except (KeyError, TypeError, ValueError) as e:
            raise UpstreamError("the upstream's embeddings are not shaped as OpenAI's") from e

    def health(self) -> EngineHealth:
        """Whether it is started, and requests open; the upstream is not asked."""
        started = self._session is not None
        return EngineHealth(ok=started, running=self._running, detail="" if started else "not started")

    def metrics(self) -> str:
        """None of its own."""
        return ""

    async def aclose(self) -> None:
        """Close all connections."""
        session, self._session, self._upstreams = self._session, None, []
        if session is not None:
            await session.close()

    def _check(self, query: Query) -> None:
        guided = query.response_format is not None and query.response_format.get("type") != "text"
        for name, asked, can in (
            ("tools", bool(query.tools), self.capabilities.tools),
            ("response_format", guided, self.capabilities.guided),
            ("logprobs", query.sampling.logprobs, self.capabilities.logprobs),
            ("adapter", query.adapter is not None, False),
        ):
            if asked and not can:
                raise UnsupportedParameter(f"{name} is not supported by model {self.model}", param=name)

    def _in_turn(self) -> list[Upstream]:
        """All upstreams, beginning at a random one."""
        if not self._upstreams:
            raise PoolUnavailable(f"model {self.model} is not running", retry_after_s=_RETRY_AFTER_S)
        first = self._rng.randrange(len(self._upstreams))
        return self._upstreams[first:] + self._upstreams[:first]


def _parsed(data: bytes) -> list[dict[str, Any]]:
    """The JSON bodies of a buffer of whole events, each one `data:` line."""
    try:
        return [orjson.loads(event[5:]) for event in data.split(b"\n\n") if event]
    except orjson.JSONDecodeError as e:
        raise UpstreamError("the upstream sent an event that is not JSON") from e
