import asyncio
from collections.abc import AsyncGenerator

import orjson
import pytest

from serve_app.errors import UpstreamError
from serve_app.learning.collect import Asked, collect
from serve_app.pools.base import Answer, Call, Frame, PoolLoad
from serve_app.types import Capabilities, Message, Price, Query, Sampling


class EchoPool:
    """Answers choice i with `<name>-<i>`; fails on queries that say so; counts how many it answers at once."""

    capabilities = Capabilities()
    price = Price(1.0, 2.0)

    def __init__(self, name: str) -> None:
        self.name = name
        self.model = f"m-{name}"
        self.now = self.most = 0

    def load(self) -> PoolLoad:
        return PoolLoad(1, self.now)

    def stream(self, query: Query, call: Call) -> AsyncGenerator[Frame, None]:
        raise NotImplementedError("collecting asks for whole answers")

    async def complete(self, query: Query, call: Call) -> Answer:
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(0)
        self.now -= 1
        if f"fail {self.name}" in query.text:
            raise UpstreamError("died")
        n = query.sampling.n
        choices = [{"index": i, "message": {"content": f"{self.name}-{i}"}} for i in reversed(range(n))]
        usage = {"prompt_tokens": 10, "completion_tokens": 3 * n}
        return Answer(orjson.dumps({"choices": choices, "usage": usage}))

    async def aclose(self) -> None:
        return None


def asked(*texts: str) -> list[Asked]:
    return [Asked(Query((Message("user", t),)), lambda answer: float(answer.endswith("1")), "g") for t in texts]


async def test_every_pool_answers_every_query_with_all_samples() -> None:
    pools = {"small": EchoPool("small"), "large": EchoPool("large")}
    told: list[tuple[int, int]] = []
    found = await collect(
        asked("a", "b"),
        pools,
        sampling=Sampling(n=2, temperature=1.0),
        progress=lambda *at: told.append(at),
        about={"source": "here"},
    )
    assert found.weak.texts == (("small-0", "small-1"),) * 2 and found.strong.model == "m-large"
    assert found.weak.quality.tolist() == [[0.0, 1.0]] * 2
    assert found.weak.prompt_tokens.tolist() == [[10, 10]] * 2
    assert found.weak.completion_tokens.tolist() == [[3, 3]] * 2
    assert found.weak.cost_usd[0, 0] == pytest.approx((10 * 1 + 3 * 2) / 1e6)
    assert told == [(1, 2), (2, 2)] and found.about == {"source": "here", "failed": 0}


async def test_a_failing_query_is_left_out_and_counted() -> None:
    pools = {"small": EchoPool("small"), "large": EchoPool("large")}
    found = await collect(asked("a", "fail large", "c"), pools)
    assert [q.text for q in found.queries] == ["a", "c"] and found.about["failed"] == 1


async def test_the_first_error_is_raised_if_nothing_was_answered() -> None:
    with pytest.raises(UpstreamError, match="died"):
        await collect(asked("fail small"), {"small": EchoPool("small")})


async def test_concurrency_is_bounded() -> None:
    pool = EchoPool("small")
    await collect(asked(*map(str, range(50))), {"small": pool}, concurrency=4)
    assert 1 < pool.most <= 4
