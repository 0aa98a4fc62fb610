""""""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import orjson
import pytest

from serve_app.data.collection.collect import collect
from serve_app.data.collection.journal import AnswerJournal
from serve_app.data.collection.plan import CollectionPlan, CollectionProgress, LabeledQuery
from serve_app.errors import (
    ConfigError,
    ContextLengthExceeded,
    DataError,
    DeadlineExceeded,
    ModelNotFound,
    Overloaded,
    UpstreamError,
)
from serve_app.pools.base import PoolLoad
from serve_app.pools.upstream import Backoff
from serve_app.store.base import COLLECTED
from serve_app.types import Capabilities, Message, Price, Query, Sampling
from serve_app.wire.frames import Answer, Call, Frame

Fault = Callable[[Query, int], Exception | None]
"""What a call raises, by its query and how many calls came before; None: it answers."""


class EchoPool:
    """Answers choice i with `<name>-<i>`, ten tokens read and three written a choice; counts its calls."""

    capabilities = Capabilities()
    price = Price(1.0, 2.0)

    def __init__(self, name: str, fault: Fault = lambda query, calls: None, most_choices: int = 99) -> None:
        self.name = name
        self.model = f"m-{name}"
        self.now = self.most = 0
        self.queries: list[Query] = []
        self._fault = fault
        self._most_choices = most_choices

    def load(self) -> PoolLoad:
        return PoolLoad(1, self.now)

    def stream(self, query: Query, call: Call) -> AsyncGenerator[Frame, None]:
        raise NotImplementedError("collecting asks for whole answers")

    async def complete(self, query: Query, call: Call) -> Answer:
        assert call.request_id.startswith(COLLECTED)
        fault = self._fault(query, len(self.queries))
        self.queries.append(query)
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(0)
        self.now -= 1
        if fault is not None:
            raise fault
        n = min(query.sampling.n, self._most_choices)
        choices = [{"index": i, "message": {"content": f"{self.name}-{i}"}} for i in reversed(range(n))]
        usage = {"prompt_tokens": 10, "completion_tokens": 3 * n}
        return Answer(orjson.dumps({"choices": choices, "usage": usage}))

    async def aclose(self) -> None:
        return None


def asked(*texts: str) -> list[LabeledQuery]:
    return [LabeledQuery(Query((Message("user", t),)), f"id-{t}", "g", t.upper()) for t in texts]


def how(n: int = 1, per_call: int = 8, seed: int | None = None, concurrency: int = 4) -> CollectionPlan:
    quick = Backoff(retries=3, base_s=0.001, cap_s=0.002, longest_retry_after_s=1.0)
    return CollectionPlan(Sampling(n=n, temperature=1.0, seed=seed), concurrency, per_call, quick)


def failing_on(text: str, error: Exception) -> Fault:
    return lambda query, calls: error if query.text == text else None


async def test_every_pool_answers_every_query_with_all_samples() -> None:
    pools = {"small": EchoPool("small"), "large": EchoPool("large")}
    told: list[CollectionProgress] = []
    found = await collect(asked("a", "b"), pools, how(2), report=told.append, about={"source": "here"})
    assert found.weak.texts == (("small-0", "small-1"),) * 2 and found.strong.model == "m-large"
    assert (found.ids, found.groups, found.references) == (("id-a", "id-b"), ("g", "g"), ("A", "B"))
    assert np.isnan(found.weak.quality).all() and found.weak.quality.shape == (2, 2)
    assert found.weak.prompt_tokens.tolist() == [[10, 10]] * 2
    assert found.weak.completion_tokens.tolist() == [[3, 3]] * 2
    assert found.weak.cost_usd[0, 0] == pytest.approx((10 * 1 + 3 * 2) / 1e6)
    assert found.weak.latency_ms is not None and (found.weak.latency_ms > 0).all()
    assert found.about["source"] == "here" and found.about["failed"] == 0 and found.about["failures"] == []
    assert found.about["spent_usd"] == pytest.approx(4 * (10 * 1 + 6 * 2) / 1e6), "a prompt is paid once a call"
    assert (told[0].done, told[0].total, told[0].left_s) == (0, 4, None)
    assert (told[-1].done, told[-1].failed, told[-1].fresh) == (4, 0, 4) and told[-1].left_s == 0


async def test_samples_are_asked_in_calls_of_bounded_size_with_different_seeds() -> None:
    pool = EchoPool("small")
    found = await collect(asked("a", "b"), {"small": pool}, how(10, per_call=4, seed=7))
    assert [q.sampling.n for q in pool.queries if q.text == "a"] == [4, 4, 2]
    assert found.weak.quality.shape == (2, 10)
    seeds = [q.sampling.seed for q in pool.queries]
    assert len(set(seeds)) == 6 and all(s is not None and 0 <= s < 2**31 for s in seeds)
    again = EchoPool("small")
    await collect(asked("a", "b"), {"small": again}, how(10, per_call=4, seed=7))
    assert sorted(q.sampling.seed or 0 for q in again.queries) == sorted(s or 0 for s in seeds)
    unseeded = EchoPool("small")
    await collect(asked("a"), {"small": unseeded}, how(2))
    assert unseeded.queries[0].sampling.seed is None


async def test_an_engine_that_gives_one_choice_a_call_is_asked_until_there_are_enough() -> None:
    pool = EchoPool("small", most_choices=1)
    found = await collect(asked("a"), {"small": pool}, how(3))
    assert [q.sampling.n for q in pool.queries] == [3, 2, 1] and found.weak.texts == (("small-0",) * 3,)


async def test_a_query_that_is_refused_is_left_out_and_told_with_its_reason(tmp_path: Path) -> None:
    pools = {"small": EchoPool("small"), "large": EchoPool("large", failing_on("b", ContextLengthExceeded("too long")))}
    items = asked("a", "b", "c")
    found = await collect(items, pools, how(), journal=tmp_path / "j")
    assert found.ids == ("id-a", "id-c") and found.about["failed"] == 1
    assert found.about["failures"] == [{"id": "id-b", "pool": "large", "reason": "400: too long"}]
    calls = len(pools["large"].queries)
    again = await collect(items, pools, how(), journal=tmp_path / "j")
    assert len(pools["large"].queries) == calls == 3, "what is refused for good is not asked again"
    assert again.digest() == found.digest() and again.about == found.about


@pytest.mark.parametrize(
    "error", [Overloaded("full", retry_after_s=0.02), UpstreamError("died"), DeadlineExceeded("x")]
)
async def test_what_fails_for_now_is_tried_again(error: Exception) -> None:
    pool = EchoPool("small", lambda query, calls: error if calls < 2 else None)
    told: list[CollectionProgress] = []
    started = asyncio.get_running_loop().time()
    found = await collect(asked("a"), {"small": pool}, how(), report=told.append)
    assert len(pool.queries) == 3 and found.about["failed"] == 0
    assert any(t.trouble == f"small: {error}" for t in told)
    waited = asyncio.get_running_loop().time() - started
    assert waited >= 0.04 or not isinstance(error, Overloaded), "Retry-After is the least wait"


async def test_one_query_that_never_comes_is_given_up_and_asked_by_the_next_run(tmp_path: Path) -> None:
    pool = EchoPool("small", failing_on("b", UpstreamError("poison")))
    items = asked("a", "b", "c")
    found = await collect(items, {"small": pool}, how(), journal=tmp_path / "j")
    assert found.ids == ("id-a", "id-c") and Counter(q.text for q in pool.queries) == {"a": 1, "b": 4, "c": 1}
    assert found.about["failures"] == [{"id": "id-b", "pool": "small", "reason": "502: poison"}]
    well = EchoPool("small")
    assert len(await collect(items, {"small": well}, how(), journal=tmp_path / "j")) == 3
    assert [q.text for q in well.queries] == ["b"]


async def test_a_pool_that_is_gone_ends_the_run_and_the_next_goes_on(tmp_path: Path) -> None:
    items = asked(*map(str, range(60)))
    dying = EchoPool("small", lambda query, calls: UpstreamError("gone") if calls >= 10 else None)
    with pytest.raises(UpstreamError, match=r"pool small .*gone"):
        await collect(items, {"small": dying}, how(), journal=tmp_path / "j")
    with AnswerJournal(tmp_path / "j", how().header(items, {"small": dying})) as journal:
        assert len(journal.entries) == 10
    assert len(dying.queries) < 60
    well = EchoPool("small")
    found = await collect(items, {"small": well}, how(), journal=tmp_path / "j")
    assert len(found) == 60 and len(well.queries) == 50


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ModelNotFound("no model m"), "pool small: no model m"),
        (UpstreamError("the upstream refused our API key", code="upstream_refused_key"), "key"),
    ],
)
async def test_mistakes_of_the_operator_end_the_run_at_once(error: Exception, message: str) -> None:
    pool = EchoPool("small", lambda query, calls: error)
    with pytest.raises(ConfigError, match=message):
        await collect(asked(*map(str, range(50))), {"small": pool}, how())
    assert len(pool.queries) <= 4


async def test_nothing_answered_and_nothing_to_ask_are_said() -> None:
    with pytest.raises(DataError, match="small on 'id-a': 400: too long"):
        await collect(
            asked("a"), {"small": EchoPool("small", failing_on("a", ContextLengthExceeded("too long")))}, how()
        )
    with pytest.raises(DataError, match="no query"):
        await collect([], {}, how())
    with pytest.raises(ConfigError, match="temperature 0"):
        await collect(asked("a"), {}, replace(how(), sampling=Sampling(n=3, temperature=0.0)))


async def test_an_answer_that_is_none_is_an_upstreams_fault() -> None:
    class Broken(EchoPool):
        async def complete(self, query: Query, call: Call) -> Answer:
            return Answer(b'{"choices": []}' if query.text == "a" else b"{}")

    with pytest.raises(DataError, match="without a choice"):
        await collect(asked("a"), {"small": Broken("small")}, how())
    with pytest.raises(DataError, match="chat completion"):
        await collect(asked("b"), {"small": Broken("small")}, how())


async def test_concurrency_is_bounded() -> None:
    pool = EchoPool("small")
    await collect(asked(*map(str, range(50))), {"small": pool}, how(concurrency=4))
    assert pool.most == 4


async def test_a_run_cancelled_at_any_time_repeats_no_finished_call(tmp_path: Path) -> None:
    items, rng = asked(*map(str, range(40))), Random(1)
    pools = {"small": EchoPool("small"), "large": EchoPool("large")}
    settings = how(3, per_call=2)
    for _ in range(8):
        task = asyncio.create_task(collect(items, pools, settings, journal=tmp_path / "j"))
        for _ in range(rng.randrange(1, 12)):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    found = await collect(items, pools, settings, journal=tmp_path / "j")
    with AnswerJournal(tmp_path / "j", settings.header(items, pools)) as journal:
        entries = [(e.query, e.pool) for e in journal.entries]
    assert len(found) == 40 and set(Counter(entries).values()) == {2}
    calls = sum(len(pool.queries) for pool in pools.values())
    assert 160 <= calls <= 160 + 8 * settings.concurrency
