"""Asks every pool every query for several answers each: the Dataset that routers learn from, before it is scored.

What is finished is kept in a journal; after a kill the same call goes on from there. What a pool refuses for good is
kept too, with its reason, and the query is left out of the dataset. What fails for now is tried again.

One call to a pool for several answers to a query: tried again while it fails for now, told as a journal's entry.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from time import monotonic, time
from typing import Any, Final

import numpy as np

from serve_app.arrays import Floats
from serve_app.data.collection.journal import AnswerJournal, Entry
from serve_app.data.collection.plan import Asked, How, Progress, Tell
from serve_app.data.dataset import Dataset, PoolAnswers
from serve_app.errors import (
    AuthenticationFailed,
    ConfigError,
    DataError,
    DeadlineExceeded,
    JethroError,
    ModelNotFound,
    RequestError,
    UpstreamError,
)
from serve_app.pools.base import Pool
from serve_app.pools.retry import Backoff
from serve_app.store.base import COLLECTED
from serve_app.types import Query
from serve_app.wire.frames import Answer, Call

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


_FEWEST_GIVEN_UP: Final = 8
"""Calls in a row that fail after all their retries before a run ends: the pools are gone, it is not the one query."""
_SHOWN_FAILURES: Final = 20


async def collect(
    asked: Sequence[Asked],
    pools: Mapping[str, Pool],
    how: How,
    *,
    journal: AnswerJournal | None = None,
    tell: Tell = lambda _: None,
    about: Mapping[str, Any] | None = None,
) -> Dataset:
    """The answers of all pools, not scored yet (quality is nan).

    A sample's cost is that of an answer asked alone: its own prompt and completion at the pool's price. OpenAI's usage
    counts the choices of a call together, so each has an equal part of the call's completion tokens, and the call's
    latency. What was really paid is in `about["spent_usd"]`. Queries that a pool did not answer are left out, counted
    in `about["failed"]` and told, the first of them, in `about["failures"]`.

    Raises ConfigError for samples that would all be the same, for an unknown model or a refused key; UpstreamError when
    a pool does not answer at all; DataError if no query was answered by all pools. Nothing in the journal is lost.
    """
    if not asked:
        raise DataError("there is no query to ask")
    if how.sampling.n > 1 and how.sampling.temperature == 0:
        raise ConfigError(f"{how.sampling.n} samples at temperature 0 are all the same: raise it, or take one sample")
    run = _Run(asked, pools, how, journal, tell)
    await run.all()
    return run.dataset(about or {})


@dataclass(slots=True)
class _Kept:
    """What is known of one query and pool."""

    entries: list[Entry] = field(default_factory=list)
    failed: str | None = None

    @property
    def texts(self) -> list[str]:
        return [text for entry in self.entries for text in entry.texts]


class _Run:
    """One run of `collect`; the journal's entries first, then calls by as many workers as `concurrency`."""

    def __init__(
        self, asked: Sequence[Asked], pools: Mapping[str, Pool], how: How, journal: AnswerJournal | None, tell: Tell
    ) -> None:
        self._asked, self._pools, self._how, self._journal, self._tell = asked, pools, how, journal, tell
        self._kept: dict[tuple[str, str], _Kept] = defaultdict(_Kept)
        self._given_up: dict[tuple[str, str], str] = {}
        self._in_a_row = self._done = self._fresh = self._failed = 0
        self._spent_usd = 0.0
        self._trouble = ""
        self._stop = asyncio.Event()
        self._caller = Caller(how.backoff, self._stop, self._troubled)
        self._fatal: JethroError | None = None
        self._started = monotonic()
        for entry in journal.entries if journal else ():
            self._keep(entry)

    async def all(self) -> None:
        """Ask what is not answered yet. A fatal error lets open calls end first: they are paid."""
        waiting = [(a, name) for a in self._asked for name in self._pools if not self._finished(a.id, name)]
        self._done = len(self._asked) * len(self._pools) - len(waiting)
        self._told()
        work = iter(waiting)
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(self._how.concurrency, len(waiting))):
                    group.create_task(self._worker(work))
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
        if self._fatal is not None:
            raise self._fatal

    def dataset(self, about: Mapping[str, Any]) -> Dataset:
        """All queries that every pool answered."""
        reasons = {(key, pool): k.failed for (key, pool), k in self._kept.items() if k.failed} | self._given_up
        failures = [
            {"id": a.id, "pool": pool, "reason": reasons[a.id, pool]}
            for a in self._asked
            for pool in self._pools
            if (a.id, pool) in reasons
        ]
        left_out = {failure["id"] for failure in failures}
        rows = [a for a in self._asked if a.id not in left_out]
        if not rows:
            first = failures[0]
            raise DataError(
                f"no query was answered by all pools; {first['pool']} on {first['id']!r}: {first['reason']}"
            )
        sampling = self._how.sampling
        told = {
            "samples": sampling.n,
            "temperature": sampling.temperature,
            "max_tokens": sampling.max_tokens,
            "seed": sampling.seed,
            "spent_usd": self._spent_usd,
            "failed": len(left_out),
            "failures": failures[:_SHOWN_FAILURES],
        }
        return Dataset(
            tuple(a.query for a in rows),
            {name: self._column(pool, name, rows) for name, pool in self._pools.items()},
            tuple(a.group for a in rows),
            {**about, **told},
            tuple(a.id for a in rows),
            tuple(a.reference for a in rows) if any(a.reference is not None for a in rows) else (),
        )

    async def _worker(self, work: Iterator[tuple[Asked, str]]) -> None:
        for item, name in work:
            if self._stop.is_set():
                return
            await self._finish(item, name)

    async def _finish(self, item: Asked, name: str) -> None:
        """Ask one pool one query until there are enough samples, or it fails."""
        while not self._finished(item.id, name):
            entry = await self._next(item, name)
            if entry is None:
                return
            if self._journal is not None:
                self._journal.add(entry)
            self._keep(entry)
            self._in_a_row = 0
        self._done += 1
        self._fresh += 1
        self._told()

    async def _next(self, item: Asked, name: str) -> Entry | None:
        """One call's answers, or that the pool refuses the query; None if the run ends or this query is given up."""
        have, sampling = len(self._kept[item.id, name].texts), self._how.sampling
        query = replace(item.query, sampling=replace(sampling, n=min(self._how.per_call, sampling.n - have)))
        try:
            return (
                None
                if self._stop.is_set()
                else await self._caller.answered(item.id, query, name, self._pools[name], have)
            )
        except (ModelNotFound, AuthenticationFailed) as e:
            self._end(ConfigError(f"pool {name}: {e}; give the endpoint, or the config, that has this model"))
        except RequestError as e:
            return Entry(item.id, name, failed=f"{e.status}: {e}")
        except JethroError as e:
            self._give_up(item, name, e)
        return None

    def _give_up(self, item: Asked, name: str, error: JethroError) -> None:
        self._given_up[item.id, name] = f"{error.status}: {error}"
        self._in_a_row += 1
        self._done += 1
        if error.code == KEY_REFUSED:
            self._end(ConfigError(f"pool {name}: {error}; check the key"))
        elif self._in_a_row >= max(_FEWEST_GIVEN_UP, self._how.concurrency):
            self._end(UpstreamError(f"pool {name} does not answer: {error}; what was answered is kept: run it again"))
        self._told()

    def _troubled(self, trouble: str) -> None:
        self._trouble = trouble
        self._told()

    def _end(self, error: JethroError) -> None:
        self._fatal = self._fatal or error
        self._stop.set()

    def _keep(self, entry: Entry) -> None:
        kept = self._kept[entry.query, entry.pool]
        kept.failed = entry.failed or kept.failed
        self._failed += entry.failed is not None
        kept.entries.append(entry)
        self._spent_usd += entry.cost_usd

    def _finished(self, query: str, pool: str) -> bool:
        kept = self._kept[query, pool]
        return kept.failed is not None or len(kept.texts) >= self._how.sampling.n

    def _told(self) -> None:
        failed = len(self._given_up) + self._failed
        total = len(self._asked) * len(self._pools)
        elapsed_s = monotonic() - self._started
        self._tell(Progress(self._done, total, failed, self._fresh, elapsed_s, self._spent_usd, self._trouble))

    def _column(self, pool: Pool, name: str, rows: Sequence[Asked]) -> PoolAnswers:
        n = self._how.sampling.n
        kept = [self._kept[a.id, name] for a in rows]
        texts = tuple(tuple(k.texts[:n]) for k in kept)

        def spread(value: Callable[[Entry], float]) -> Floats:
            return np.array([[value(e) for e in k.entries for _ in e.texts][:n] for k in kept], dtype=np.float64)

        prompt = spread(lambda e: e.prompt_tokens)
        completion = spread(lambda e: e.completion_tokens / len(e.texts))
        price = pool.price
        cost = (prompt * price.input_usd_per_million + completion * price.output_usd_per_million) / 1e6
        unscored = np.full(prompt.shape, np.nan)
        return PoolAnswers(pool.model, texts, unscored, cost, prompt, completion, spread(lambda e: e.latency_ms))
