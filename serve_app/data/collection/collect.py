"""Collects every pool's answers to every query, several each: the data set that routers and cascades are fitted on.

For cascades also, of every pool but the last, extra samples and the pool's verdicts on its own answer. Finished calls
are kept in journals, so that after a kill the same call resumes. What a pool refuses for good is kept too, with its
reason, and the query is left out of the data set. What fails for now is tried again.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path
from time import monotonic, time
from typing import Any, Final

import numpy as np

from serve_app.arrays import Floats
from serve_app.data.answers import EXTRA_TEMPERATURE, AnswerEvidence, parse_verdicts, verification_query
from serve_app.data.collection.journal import AnswerJournal, CollectedCall
from serve_app.data.collection.plan import CollectionPlan, CollectionProgress, LabeledQuery, ReportProgress
from serve_app.data.dataset import LOGPROB, Dataset, PoolAnswers, mean_logprob
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
from serve_app.store.base import COLLECTED
from serve_app.types import Sampling
from serve_app.wire.frames import Call
from serve_app.wire.requests import stated

KEY_REFUSED = "upstream_refused_key"
"""The code of an upstream's error that no retry fixes (see `pools.upstream_errors`)."""
_FEWEST_GIVEN_UP: Final = 8
"""Consecutive calls that fail after all their retries before a run ends: the pools are gone, not one query is bad."""
_SHOWN_FAILURES: Final = 20


async def collect(
    queries: Sequence[LabeledQuery],
    pools: Mapping[str, Pool],
    plan: CollectionPlan,
    *,
    journal: Path | None = None,
    report: ReportProgress = lambda _: None,
    about: Mapping[str, Any] | None = None,
) -> Dataset:
    """The answers of all pools, weakest first, not scored yet (quality is nan).

    A sample's cost is that of an answer requested alone: its own prompt and completion at the pool's price. OpenAI's
    usage counts the choices of a call together, so each has an equal part of the call's completion tokens, and the
    call's latency. What was really paid is in `about["spent_usd"]`. Queries that a pool did not answer are left out,
    counted in `about["failed"]`, and the first of them listed in `about["failures"]`. Finished calls are kept in the
    file `journal`; those for extra samples and verdicts in files beginning with its name, less its suffix.

    Raises ConfigError for samples that would all be the same, for an unknown model or a refused key; UpstreamError when
    a pool does not answer at all; DataError if no query was answered by all pools. Nothing in a journal is lost.
    """
    sampling = plan.sampling
    if not queries:
        raise DataError("there is no query to answer")
    if sampling.n > 1 and sampling.temperature == 0:
        raise ConfigError(f"{sampling.n} samples at temperature 0 are all the same: raise it, or take one sample")
    main = await _run(queries, pools, plan, journal, report)
    found = main.dataset(about or {})
    for name in list(pools)[:-1]:
        found = await _with_extras(found, main, name, plan, journal, report)
    return found


async def _with_extras(
    found: Dataset,
    main: "_CollectionRun",
    name: str,
    plan: CollectionPlan,
    journal: Path | None,
    report: ReportProgress,
) -> Dataset:
    """The data set with one pool's extra samples and verdicts on its first answers, as far as the plan has them."""
    first = {item.id: main.texts(item.id, name)[0] for item in main.queries if main.texts(item.id, name)}
    answered = [item for item in main.queries if item.id in first]
    stages: dict[str, tuple[list[LabeledQuery], Sampling]] = {}
    if plan.extra_samples:
        drawn = replace(plan.sampling, n=plan.extra_samples, temperature=EXTRA_TEMPERATURE)
        stages["samples"] = answered, replace(drawn, logprobs=False, top_logprobs=0)
    if plan.verdicts:
        evidence = (AnswerEvidence(item.query, first[item.id]) for item in answered)
        verify = [verification_query(e, plan.verdicts, plan.sampling.seed) for e in evidence]
        items = [replace(item, query=query) for item, query in zip(answered, verify, strict=True)]
        stages["verdicts"] = items, verify[0].sampling
    if not stages:
        return found
    runs = {}
    for stage, (items, sampling) in stages.items():
        path = None if journal is None else journal.with_name(f"{journal.stem}.{name}.{stage}{journal.suffix}")
        runs[stage] = await _run(items, {name: main.pools[name]}, replace(plan, sampling=sampling), path, report)
    texts = {stage: [tuple(run.texts(i, name)) for i in found.ids] for stage, run in runs.items()}
    pool = replace(
        found.pools[name],
        extra_samples=tuple(texts.get("samples", ())),
        verdicts=tuple(parse_verdicts(row) for row in texts.get("verdicts", ())),
        extra_cost_usd=np.array([sum(run.cost_usd(i, name) for run in runs.values()) for i in found.ids]),
    )
    spent_usd = found.about["spent_usd"] + sum(run.spent_usd for run in runs.values())
    return replace(found, pools={**found.pools, name: pool}, about={**found.about, "spent_usd": spent_usd})


async def _run(
    queries: Sequence[LabeledQuery],
    pools: Mapping[str, Pool],
    plan: CollectionPlan,
    journal: Path | None,
    report: ReportProgress,
) -> "_CollectionRun":
    """A finished run; its journal is closed."""
    header = plan.header(queries, pools)
    with nullcontext() if journal is None else AnswerJournal(journal, header) as kept:
        run = _CollectionRun(queries, pools, plan, kept, report)
        await run.all()
    return run


@dataclass(slots=True)
class _PoolCalls:
    """What is known of one query and pool."""

    calls: list[CollectedCall] = field(default_factory=list)
    failed: str | None = None

    @property
    def texts(self) -> list[str]:
        return [text for call in self.calls for text in call.texts]


@dataclass(eq=False)
class _CollectionRun:
    """Answers of pools to queries: those of the journal first, then calls by as many workers as `concurrency`."""

    queries: Sequence[LabeledQuery]
    pools: Mapping[str, Pool]
    plan: CollectionPlan
    journal: AnswerJournal | None
    report: ReportProgress

    def __post_init__(self) -> None:
        self._kept: dict[tuple[str, str], _PoolCalls] = defaultdict(_PoolCalls)
        self._given_up: dict[tuple[str, str], str] = {}
        self._consecutive = self._done = self._fresh = self._failed = 0
        self.spent_usd = 0.0
        self._trouble = ""
        self._stop = asyncio.Event()
        self._fatal: JethroError | None = None
        self._started = monotonic()
        for call in self.journal.entries if self.journal else ():
            self._keep(call)

    def texts(self, query_id: str, pool: str) -> list[str]:
        """The pool's answers to a query; empty if there are none."""
        return self._kept[query_id, pool].texts[: self.plan.sampling.n]

    def cost_usd(self, query_id: str, pool: str) -> float:
        """What the pool's calls for a query cost."""
        return sum(call.cost_usd for call in self._kept[query_id, pool].calls)

    async def all(self) -> None:
        """Request what is not answered yet. A fatal error lets open calls end first: they are paid."""
        waiting = [(item, name) for item in self.queries for name in self.pools if not self._finished(item.id, name)]
        self._done = len(self.queries) * len(self.pools) - len(waiting)
        self._report_progress()
        work = iter(waiting)
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(self.plan.concurrency, len(waiting))):
                    group.create_task(self._worker(work))
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
        if self._fatal is not None:
            raise self._fatal

    def dataset(self, about: Mapping[str, Any]) -> Dataset:
        """All queries that every pool answered."""
        reasons = {(key, pool): k.failed for (key, pool), k in self._kept.items() if k.failed} | self._given_up
        failures = [
            {"id": item.id, "pool": pool, "reason": reasons[item.id, pool]}
            for item in self.queries
            for pool in self.pools
            if (item.id, pool) in reasons
        ]
        left_out = {failure["id"] for failure in failures}
        if not (rows := [item for item in self.queries if item.id not in left_out]):
            first = failures[0]
            raise DataError(
                f"no query was answered by all pools; {first['pool']} on {first['id']!r}: {first['reason']}"
            )
        sampling = self.plan.sampling
        facts = {
            "samples": sampling.n,
            "temperature": sampling.temperature,
            "max_tokens": sampling.max_tokens,
            "seed": sampling.seed,
            "spent_usd": self.spent_usd,
            "failed": len(left_out),
            "failures": failures[:_SHOWN_FAILURES],
        }
        return Dataset(
            tuple(item.query for item in rows),
            {name: self._answers(pool, name, rows) for name, pool in self.pools.items()},
            tuple(item.group for item in rows),
            {**about, **facts},
            tuple(item.id for item in rows),
            tuple(item.reference for item in rows) if any(item.reference is not None for item in rows) else (),
        )

    async def _worker(self, work: Iterator[tuple[LabeledQuery, str]]) -> None:
        for item, name in work:
            if self._stop.is_set():
                return
            await self._finish(item, name)

    async def _finish(self, item: LabeledQuery, name: str) -> None:
        """Call one pool with one query until there are enough samples, or it fails."""
        while not self._finished(item.id, name):
            if (call := await self._next(item, name)) is None:
                return
            if self.journal is not None:
                self.journal.add(call)
            self._keep(call)
            self._consecutive = 0
        self._done += 1
        self._fresh += 1
        self._report_progress()

    async def _next(self, item: LabeledQuery, name: str) -> CollectedCall | None:
        """One call's answers, or that the pool refuses the query; None if the run ends or this query is given up."""
        if self._stop.is_set():
            return None
        try:
            return await self._answered(item, name)
        except (ModelNotFound, AuthenticationFailed) as e:
            self._end(ConfigError(f"pool {name}: {e}; give the endpoint, or the config, that has this model"))
        except RequestError as e:
            return CollectedCall(item.id, name, failed=f"{e.status}: {e}")
        except JethroError as e:
            self._give_up(item, name, e)
        return None

    async def _answered(self, item: LabeledQuery, name: str) -> CollectedCall | None:
        """The pool's next answers, tried again while it fails for now; None if the run ended before they came.

        Raises the pool's error when no further try may help.
        """
        pool, have = self.pools[name], len(self._kept[item.id, name].texts)
        sampling = replace(self.plan.sampling, n=min(self.plan.per_call, self.plan.sampling.n - have))
        if sampling.logprobs and not pool.capabilities.logprobs:
            sampling = replace(sampling, logprobs=False, top_logprobs=0)
        if sampling.seed is not None:
            sampling = replace(sampling, seed=_number(sampling.seed, item.id, name, have) >> 33)
        sampling = replace(sampling, stated=stated(sampling.temperature, sampling.top_p))  # a model's default is not it
        query = replace(item.query, sampling=sampling)
        call_id = f"{COLLECTED}{_number(item.id, name, have):016x}"
        attempt = 0
        while True:
            started = monotonic()
            try:
                answer = await pool.complete(query, Call(call_id, call_id, int(time())))
                return CollectedCall.of(item.id, name, pool, answer, (monotonic() - started) * 1e3)
            except JethroError as error:
                if (pause_s := self._pause_s(attempt, error)) is None:
                    raise
                self._trouble = f"{name}: {error}"
                self._report_progress()
            attempt += 1
            if await self._stopped_within(pause_s):
                return None

    def _pause_s(self, attempt: int, error: JethroError) -> float | None:
        """Seconds to the next try; a deadline that passed is as good a reason for one as a failed upstream."""
        if error.code == KEY_REFUSED:
            return None
        if isinstance(error, DeadlineExceeded):
            error = UpstreamError(error.message, retry_after_s=error.retry_after_s)
        return self.plan.backoff.pause_s(attempt, error)

    async def _stopped_within(self, pause_s: float) -> bool:
        try:
            async with asyncio.timeout(pause_s):
                await self._stop.wait()
        except TimeoutError:
            return False
        return True

    def _give_up(self, item: LabeledQuery, name: str, error: JethroError) -> None:
        self._given_up[item.id, name] = f"{error.status}: {error}"
        self._consecutive += 1
        self._done += 1
        if error.code == KEY_REFUSED:
            self._end(ConfigError(f"pool {name}: {error}; check the key"))
        elif self._consecutive >= max(_FEWEST_GIVEN_UP, self.plan.concurrency):
            self._end(UpstreamError(f"pool {name} does not answer: {error}; what was answered is kept: run it again"))
        self._report_progress()

    def _end(self, error: JethroError) -> None:
        self._fatal = self._fatal or error
        self._stop.set()

    def _keep(self, call: CollectedCall) -> None:
        kept = self._kept[call.query, call.pool]
        kept.failed = call.failed or kept.failed
        self._failed += call.failed is not None
        kept.calls.append(call)
        self.spent_usd += call.cost_usd

    def _finished(self, query: str, pool: str) -> bool:
        kept = self._kept[query, pool]
        return kept.failed is not None or len(kept.texts) >= self.plan.sampling.n

    def _report_progress(self) -> None:
        failed = len(self._given_up) + self._failed
        total = len(self.queries) * len(self.pools)
        elapsed_s = monotonic() - self._started
        now = CollectionProgress(self._done, total, failed, self._fresh, elapsed_s, self.spent_usd, self._trouble)
        self.report(now)

    def _answers(self, pool: Pool, name: str, rows: Sequence[LabeledQuery]) -> PoolAnswers:
        n = self.plan.sampling.n
        kept = [self._kept[item.id, name].calls for item in rows]

        def spread(value: Callable[[CollectedCall], float]) -> Floats:
            return np.array([[value(c) for c in calls for _ in c.texts][:n] for calls in kept], dtype=np.float64)

        prompt = spread(lambda c: c.prompt_tokens)
        completion = spread(lambda c: c.completion_tokens / len(c.texts))
        price = pool.price
        tokens = tuple(calls[0].logprobs() for calls in kept)
        means = [[mean_logprob(one) for call in calls for one in call.all_logprobs()][:n] for calls in kept]
        sampled = n > 1 and np.isfinite(means).any()
        return PoolAnswers(
            pool.model,
            tuple(tuple(self.texts(item.id, name)) for item in rows),
            np.full(prompt.shape, np.nan),
            (prompt * price.input_usd_per_million + completion * price.output_usd_per_million) / 1e6,
            prompt,
            completion,
            spread(lambda c: c.latency_ms),
            logprobs=tokens if any(tokens) else (),
            scores={LOGPROB: np.array(means, dtype=np.float64)} if sampled else {},
        )


def _number(*key: object) -> int:
    """64 bits drawn from a key."""
    return int.from_bytes(blake2b(repr(key).encode(), digest_size=8).digest())
