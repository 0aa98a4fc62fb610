"""One call to a pool for several answers to a query: tried again while it fails for now, told as a journal's entry."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from hashlib import blake2b
from time import monotonic, time
from typing import Any

from serve_app.errors import DeadlineExceeded, JethroError, UpstreamError
from serve_app.learning.journal import Entry
from serve_app.pools.base import Answer, Call, Pool
from serve_app.pools.retry import Backoff
from serve_app.store.base import COLLECTED
from serve_app.types import Query

KEY_REFUSED = "upstream_refused_key"
"""The code of an upstream's error that no retry mends (see `pools.upstream_errors`)."""


@dataclass(frozen=True, slots=True)
class Caller:
    """How calls are made: the back-off between tries, the run's end as an event, and who is told of a failed try."""

    backoff: Backoff
    stop: asyncio.Event
    tell: Callable[[str], None]

    async def answered(self, query_id: str, query: Query, name: str, pool: Pool, have: int) -> Entry | None:
        """The pool's answers, `query.sampling.n` of them or fewer; None if the run ended before they came.

        `have` answers are there already: they, the query's id and the pool's name `name` draw the call's seed.
        Raises the pool's error when no further try may help.
        """
        seed = query.sampling.seed
        if seed is not None:
            query = replace(query, sampling=replace(query.sampling, seed=_number(seed, query_id, name, have) >> 33))
        call_id = f"{COLLECTED}{_number(query_id, name, have):016x}"
        attempt = 0
        while True:
            started = monotonic()
            try:
                answer = await pool.complete(query, Call(call_id, call_id, int(time())))
                return _entry(query_id, name, pool, answer, (monotonic() - started) * 1e3)
            except JethroError as error:
                pause_s = self._pause_s(attempt, error)
                if pause_s is None:
                    raise
                self.tell(f"{name}: {error}")
            attempt += 1
            if await self._stopped_within(pause_s):
                return None

    def _pause_s(self, attempt: int, error: JethroError) -> float | None:
        """Seconds to the next try; a deadline that passed is as good a reason for one as a failed upstream."""
        if error.code == KEY_REFUSED:
            return None
        if isinstance(error, DeadlineExceeded):
            error = UpstreamError(error.message, retry_after_s=error.retry_after_s)
        return self.backoff.pause_s(attempt, error)

    async def _stopped_within(self, pause_s: float) -> bool:
        try:
            async with asyncio.timeout(pause_s):
                await self.stop.wait()
        except TimeoutError:
            return False
        return True


def _number(*key: object) -> int:
    """64 bits drawn from a key."""
    return int.from_bytes(blake2b(repr(key).encode(), digest_size=8).digest())


def _entry(query_id: str, name: str, pool: Pool, answer: Answer, latency_ms: float) -> Entry:
    try:
        choices = sorted(answer.parsed["choices"], key=lambda choice: choice["index"])
        texts = tuple(_text(choice) for choice in choices)
        tokens = [_tokens(choice) for choice in choices]
        usage = answer.usage
    except (ValueError, LookupError, TypeError, AttributeError) as e:
        raise UpstreamError(f"the upstream sent no chat completion: {answer.body[:80]!r}") from e
    if not texts:
        raise UpstreamError("the upstream sent an answer without a choice")
    cost_usd = pool.price.cost_usd(usage)
    entry = Entry(query_id, name, texts, usage.prompt_tokens, usage.completion_tokens, cost_usd, latency_ms)
    return replace(entry, detail={"tokens": tokens}) if any(tokens) else entry


def _text(choice: Mapping[str, Any]) -> str:
    content = choice["message"].get("content") if "message" in choice else choice.get("text")
    return str(content or "")


def _tokens(choice: Mapping[str, Any]) -> list[list[Any]]:
    """Tokens as [text, log-prob, [[alternative, log-prob], ...]]; empty where none were asked for."""
    content = (choice.get("logprobs") or {}).get("content") or ()
    return [
        [t["token"], t["logprob"], [[a["token"], a["logprob"]] for a in t.get("top_logprobs") or ()]] for t in content
    ]
